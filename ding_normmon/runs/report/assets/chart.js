// One chart: its curves, its colours, its axes, and reading it with mouse and keyboard.
'use strict';
(() => {
  const { short, curve, smooth, valueAt, meanOf, rangeOf, isFlat, element } = normmon;

  // People with any kind of colour vision can tell these apart, on light and on dark paper.
  const PALETTES = {
    light: ['#0072b2', '#c65d00', '#00795a', '#b3386f', '#6a4fb3', '#857000', '#2386b3', '#7a4a2b'],
    dark: ['#5db8ff', '#ffb14e', '#4fd1a5', '#ff8ab8', '#b9a3ff', '#e0c34a', '#8fe3f5', '#d9a07a'],
  };
  const INKS = {
    light: { ink: '#1d2430', soft: '#5c6675', line: '#e3e7ed', grey: '#9aa3af', faint: '#d3d8df', mark: '#b3261e' },
    dark: { ink: '#e6eaf0', soft: '#a3adbc', line: '#2a323d', grey: '#6d7887', faint: '#465162', mark: '#ff8a80' },
  };
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
  /** More tasks than colours: curves are grey, but for those that stand out. */
  const MANY = 8;
  const fontOf = (size) => `${size}px system-ui, 'Noto Sans CJK SC', sans-serif`;
  /** Width of a chart on paper, and how much finer it is drawn there than on a screen. */
  const PAPER = 350, FINER = 2;

  /** Return ticks as text, with as many digits as they differ in. */
  const ticks = (values, increment) => {
    const largest = Math.max(...values.map((value) => Math.abs(value ?? 0)));
    if (largest >= 1e5 || (largest > 0 && largest < 1e-3)) return values.map((v) => (v === null ? '' : short(v)));
    // As many as the increment has: 0.025 has three.
    const isWhole = (value) => Math.abs(value - Math.round(value)) < 1e-6 * value;
    let digits = 0;
    while (digits < 8 && !isWhole(increment * 10 ** digits)) digits += 1;
    return values.map((value) => (value === null ? '' : value.toFixed(digits)));
  };

  /** Return where a logarithmic axis has ticks: at powers of ten, or closer where there are few of them. */
  const logTicks = (min, max) => {
    const decades = Math.log10(max / min);
    const every = Math.max(1, Math.ceil(decades / 5));
    const factors = decades > 2.2 ? [1] : decades > 0.9 ? [1, 2, 5] : null;
    const found = [];
    if (factors) {
      for (let power = Math.floor(Math.log10(min)); power <= Math.log10(max) + 1; power += 1) {
        if (power % every && factors.length === 1) continue;
        for (const factor of factors) {
          const value = Number(`${factor}e${power}`);
          if (value >= min && value <= max) found.push(value);
        }
      }
      return found;
    }
    const size = 10 ** Math.floor(Math.log10((max - min) / 4));
    const step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => (max - min) / one <= 5);
    for (let value = Math.ceil(min / step) * step; value <= max; value += step) found.push(Number(value.toPrecision(12)));
    return found;
  };

  const timeUnit = (seconds) => (seconds > 7200 ? [3600, 'h'] : seconds > 240 ? [60, 'min'] : [1, 's']);

  /**
   * A chart in an element of the page.
   *
   * page: what all charts share: data, state, text, taskIndex, isAccused, hover, zoomTo, fullRange.
   * spec: one of data.charts.
   * own: { mini, focus, zoom, span, runs, along }: of a small chart, which follows nobody's zoom.
   */
  class Chart {
    constructor(page, spec, own = {}) {
      Object.assign(this, { page, spec, own, plot: null, scale: null });
      // The charts of one task tell its heads apart, not tasks.
      this.isOfOneTask = spec.category === page.data.each_task;
      this.root = element('div', { class: own.mini ? 'plot mini' : 'plot', role: 'img' });
      this.root.chart = this;
      if (!own.mini) {
        this.root.setAttribute('tabindex', '0');
        this.root.setAttribute('aria-describedby', `${page.id}-keys`);
        this.root.addEventListener('keydown', (event) => this.press(event));
        this.root.addEventListener('mouseleave', () => page.hover(null));
        this.root.addEventListener('dblclick', () => page.zoomTo(null));
        this.root.addEventListener('blur', () => page.hover(null));
      }
      this.root.setAttribute('aria-label', page.titleOf(spec));
    }

    /** Return every curve that can be drawn: its points, name, task, run and its number among its kind. */
    curves() {
      const { state } = this.page, runs = this.own.runs ?? this.page.data.runs;
      const found = [];
      const byExperiment = state.seeds ? Map.groupBy(runs, (run) => run.experiment) : null;
      const sets = byExperiment ? [...byExperiment.values()] : runs.map((run) => [run]);
      sets.forEach((set, place) => {
        this.spec.lines.forEach(([metric, task, label, low, high], number) => {
          const several = set.map((run) => this.banded(run, metric, low, high)).filter((one) => one && one.x.length);
          if (!several.length) return;
          const points = several.length === 1 ? several[0] : meanOf(several);
          const run = sets.length > 1 ? (set.length > 1 ? `${set[0].name} × ${set.length}` : set[0].name) : '';
          const name = task === null || this.isOfOneTask ? label : this.page.nameOf(task);
          found.push({ ...points, metric, task, run, place, number, name: run ? `${name} · ${run}` : name,
            label: task === null || this.isOfOneTask ? label : `${task} ${name}`, raw: points.y });
        });
      });
      return found;
    }

    banded(run, metric, low, high) {
      const along = this.own.along ?? this.page.state.along;
      const points = curve(run, metric, along);
      if (!points || !low || points.low) return points;
      const [lower, upper] = [curve(run, low, along), curve(run, high, along)];
      const fits = lower && upper && lower.y.length === points.y.length && upper.y.length === points.y.length;
      return fits ? { ...points, low: lower.low ?? lower.y, high: upper.high ?? upper.y, isBand: true } : points;
    }

    /** Return whether the scale is logarithmic: as declared, as far as the numbers can be drawn so. */
    isLog(curves) {
      const wanted = this.scale ?? this.page.state.scale;
      if (wanted === 'linear') return false;
      if (wanted === 'fit' && this.spec.scale !== 'log') return false;
      const has = (fits) => curves.some(({ y }) => y.some(fits));
      return has((value) => value > 0) && (wanted === 'log' || !has((value) => value !== null && value < 0));
    }

    /** Return the colour and width of a curve in the present state of the page. */
    look(one) {
      const { page, own } = this;
      const paper = page.theme();
      const palette = PALETTES[paper], { grey, faint } = INKS[paper];
      const focus = own.focus ?? page.state.focus;
      const isTask = one.task !== null;
      const isByRun = one.run && this.spec.lines.length === 1;
      const index = isByRun ? one.place : isTask && this.hasTasks ? page.taskIndex(one.task) : one.number;
      const colour = palette[index % palette.length];
      const dash = one.run && !isByRun ? DASHES[one.place % 4] : this.hasTasks ? [] : DASHES[Math.floor(index / 8) % 4];
      if (focus && this.hasFocus) {
        const isIn = page.isIn(focus, one);
        return { colour: isIn ? colour : faint, width: isIn ? 2.2 : 1, dash, isNamed: isIn };
      }
      const hot = own.mini ? null : page.state.hot;
      if (hot !== null && this.tasks.has(hot)) {
        return one.task === hot ? { colour, width: 2.4, dash, isNamed: true } : { colour: faint, width: 1, dash };
      }
      if (this.hasTasks && this.tasks.size > MANY && !page.isAccused(one.task) && !this.outliers.has(one.task)) {
        return { colour: grey, width: 1, dash };
      }
      return { colour, width: this.hasTasks ? 1.6 : 1.7, dash, isNamed: !this.hasTasks || this.tasks.size > MANY };
    }

    /** Find the tasks whose level at the end is far from that of the others. */
    findOutliers() {
      this.outliers = new Set();
      const ends = this.lines.filter((one) => one.task !== null).map((one) => {
        const last = one.y.slice(-Math.max(1, Math.ceil(one.y.length / 10))).filter((value) => value !== null);
        const level = last.sort((a, b) => a - b)[last.length >> 1];
        return [one.task, this.log ? Math.log(level) : level];
      }).filter(([, level]) => Number.isFinite(level));
      if (ends.length <= MANY) return;
      const sorted = ends.map(([, level]) => level).sort((a, b) => a - b);
      const middle = sorted[sorted.length >> 1];
      const spread = ends.map(([, level]) => Math.abs(level - middle)).sort((a, b) => a - b)[ends.length >> 1] * 1.4826;
      for (const [task, level] of ends) if (Math.abs(level - middle) > 5 * spread + 1e-12) this.outliers.add(task);
    }

    /** Draw the chart, or draw it anew: its data or its axes may have changed. */
    draw() {
      const { state } = this.page;
      this.lines = this.curves();
      this.tasks = new Set(this.lines.map((one) => one.task).filter((task) => task !== null));
      this.hasTasks = !this.isOfOneTask && this.tasks.size > 0;
      const focus = this.own.focus ?? state.focus;
      this.hasFocus = Boolean(focus) && this.lines.some((one) => this.page.isIn(focus, one))
        && (this.own.mini || !focus.key || focus.tasks.size > 0 || focus.key === this.spec.key);
      this.log = this.isLog(this.lines);
      const positive = (y) => (this.log ? y.map((value) => (value > 0 ? value : null)) : y);
      // On a logarithmic scale logarithms are smoothed: one spike must not lift what comes behind it.
      const through = (to, y, from) => smooth(y.map((v) => (v === null ? null : to(v))), state.smoothing).map((v) => (v === null ? null : from(v)));
      const smoothed = (y) => (!state.smoothing ? y : this.log ? through(Math.log, y, Math.exp) : smooth(y, state.smoothing));
      if (this.log || state.smoothing) this.lines = this.lines.map((one) => ({ ...one, y: smoothed(positive(one.y)) }));
      this.findOutliers();
      this.looks = this.lines.map((one) => this.look(one));
      this.plot?.destroy();
      this.root.replaceChildren();
      // uPlot has the axes, the cursor and the selection; curves of different iterations are drawn in its canvas.
      const options = this.options(), [from, to] = this.window();
      this.plot = new uPlot(options, [[from, to], [this.range.min, this.range.max]], this.root);
      this.root.querySelectorAll('canvas').forEach((canvas) => canvas.setAttribute('aria-hidden', 'true'));
      this.root.dataset.drawn = this.log ? 'log' : 'linear';
    }

    /** Give a drawn chart the present colours; its curves stay as they are. */
    recolour() {
      if (!this.plot) return;
      this.looks = this.lines.map((one) => this.look(one));
      this.plot.redraw(false, false);
    }

    /** Return the range of iterations, steps or seconds that is shown. */
    window() { return this.own.zoom ?? this.page.state.zoom ?? this.page.fullRange(); }

    /** Return how many pixels of the canvas one of the screen is: more on paper. */
    ratio() { return uPlot.pxRatio * this.finer; }

    options() {
      const { page, own, log } = this;
      const { ink, soft, line } = INKS[page.theme()];
      const zoom = own.zoom ?? page.state.zoom;
      this.range = rangeOf(this.lines, log, zoom);
      const k = this.finer = page.state.isPrinting ? FINER : 1;
      const font = fontOf(11 * k);
      const isTime = page.state.along === 'times';
      const [unit, unitName] = timeUnit(page.fullRange()[1]);
      const axis = { stroke: soft, font, grid: { stroke: line, width: k }, ticks: { show: false }, gap: 4 * k };
      const height = this.height ??= this.root.clientHeight || 200;
      return {
        width: page.state.isPrinting ? PAPER * k : this.width || this.root.clientWidth || 400,
        height: height * k,
        padding: [8 * k, 10 * k, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: false, range: () => this.window() },
          y: { distr: log ? 3 : 1, range: () => [this.range.min, this.range.max] },
        },
        axes: [
          { ...axis, size: 18 * k, space: 60 * k, labelSize: 15 * k, labelGap: 0, labelFont: font,
            label: own.mini ? undefined : isTime ? `${page.text('times')} (${unitName})` : page.text(page.state.along),
            splits: isTime ? (u, i, min, max) => this.timeSplits(min, max, unit) : undefined,
            values: (u, values, i, space, step) => (isTime ? values.map((v) => short(v / unit, 4)) : values.map((v) => this.tick(v, step))) },
          { ...axis, size: (own.mini ? 44 : 52) * k, space: 28 * k,
            splits: log ? (u, i, min, max) => logTicks(min, max) : undefined, filter: (u, values) => values,
            values: (u, values, i, space, step) => (log ? values.map((v) => short(v)) : ticks(values, step)) },
        ],
        series: [{}, { paths: () => null, points: { show: false } }],
        cursor: own.mini ? { show: false } : {
          x: true, y: false, points: { show: false }, drag: { x: true, y: false, setScale: false },
          bind: { dblclick: () => null },
        },
        hooks: {
          drawClear: [(u) => this.drawBehind(u, ink)],
          draw: [(u) => this.drawBefore(u)],
          setCursor: [(u) => { if (!this.isFollowing) this.point(u); }],
          setSelect: [(u) => this.select(u)],
        },
      };
    }

    tick(value, step) {
      if (value >= 1e4) return step >= 1e6 ? `${value / 1e6}M` : step >= 100 ? `${Number((value / 1000).toPrecision(6))}k` : String(value);
      return String(Number(value.toPrecision(10)));
    }

    timeSplits(min, max, unit) {
      const wide = (max - min) / unit;
      const size = 10 ** Math.floor(Math.log10(wide / 5));
      const step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => wide / one <= 6) * unit;
      const found = [];
      for (let at = Math.ceil(min / step) * step; at <= max; at += step) found.push(at);
      return found;
    }

    select(u) {
      if (u.select.width < 4) return;
      const zoom = [u.posToVal(u.select.left, 'x'), u.posToVal(u.select.left + u.select.width, 'x')];
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      this.page.zoomTo(zoom);
    }

    /** Draw what lies under the curves: the span of a finding, bands, and marks where findings were raised. */
    drawBehind(u) {
      const { ctx } = u, { left, top, width, height } = u.bbox;
      const span = this.own.span ?? this.page.spanFor(this);
      ctx.save();
      ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
      const at = (x) => u.valToPos(x, 'x', true);
      if (span) {
        const from = at(span.from), to = at(span.to);
        ctx.fillStyle = `${this.page.severityColour(span.severity)}26`;
        ctx.fillRect(from, top, Math.max(2, to - from), height);
        ctx.fillStyle = this.page.severityColour(span.severity);
        ctx.fillRect(from, top, 1.5 * this.ratio(), height);
      }
      const named = this.looks.filter((look) => look.isNamed).length;
      this.lines.forEach((one, i) => {
        const few = this.lines.length <= 3 || (this.looks[i].isNamed && named <= 3);
        if (!one.low || !few || this.looks[i].width === 1) return;
        ctx.fillStyle = `${this.looks[i].colour}2b`;
        this.fillBand(u, ctx, one);
      });
      if (!this.own.mini) {
        ctx.setLineDash([3, 4]); ctx.lineWidth = this.ratio();
        for (const { x, severity } of this.page.marksFor(this.spec)) {
          ctx.strokeStyle = this.page.severityColour(severity);
          ctx.beginPath(); ctx.moveTo(at(x), top); ctx.lineTo(at(x), top + height); ctx.stroke();
        }
      }
      ctx.restore();
    }

    fillBand(u, ctx, { x, low, high }) {
      const least = this.range.min;
      const y = (value) => u.valToPos(this.log ? Math.max(value, least) : value, 'y', true);
      let start = 0;
      const close = (stop) => {
        if (stop - start < 2) return;
        ctx.beginPath();
        for (let i = start; i < stop; i += 1) ctx.lineTo(u.valToPos(x[i], 'x', true), y(high[i]));
        for (let i = stop - 1; i >= start; i -= 1) ctx.lineTo(u.valToPos(x[i], 'x', true), y(low[i]));
        ctx.fill();
      };
      for (let i = 0; i <= x.length; i += 1) {
        if (i === x.length || low[i] === null || high[i] === null) { close(i); start = i + 1; }
      }
    }

    /** Draw what lies over the curves: the ones that stand out, crosses, names, and what was cut off. */
    drawBefore(u) {
      const { ctx } = u, { left, top, width, height } = u.bbox, ratio = this.ratio();
      const { soft, mark } = INKS[this.page.theme()];
      ctx.save();
      ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
      const order = this.lines.map((_, i) => i).sort((a, b) => this.looks[a].width - this.looks[b].width);
      for (const i of order) this.stroke(u, ctx, this.lines[i], this.looks[i], ratio);
      ctx.strokeStyle = mark; ctx.lineWidth = 1.5 * ratio; ctx.setLineDash([]);
      this.lines.forEach((one, i) => {
        if (this.hasFocus && this.looks[i].width === 1) return;
        for (const place of one.odd) this.cross(ctx, u.valToPos(one.x[place], 'x', true), top + height - 6 * ratio, 4 * ratio);
      });
      ctx.restore();
      ctx.font = fontOf(11 * ratio);
      if (!this.own.mini) this.writeNames(u, ctx, ratio);
      const { above, below } = this.range;
      ctx.fillStyle = soft; ctx.textAlign = 'left';
      const cut = this.page.text('cut');
      if (above !== null) { ctx.textBaseline = 'top'; ctx.fillText(`▲ ${short(above)} ${cut}`, left + 4 * ratio, top + 2 * ratio); }
      if (below !== null) { ctx.textBaseline = 'bottom'; ctx.fillText(`▼ ${short(below)} ${cut}`, left + 4 * ratio, top + height - 2 * ratio); }
    }

    stroke(u, ctx, { x, y }, { colour, width, dash }, ratio) {
      ctx.strokeStyle = ctx.fillStyle = colour; ctx.lineWidth = width * ratio; ctx.lineJoin = 'round';
      ctx.setLineDash(dash.map((d) => d * ratio));
      const [from, to] = this.window(), { left, top, width: wide, height } = u.bbox;
      const scaled = this.log ? Math.log : (value) => value;
      const least = scaled(this.range.min), tall = height / (scaled(this.range.max) - least);
      const px = (i) => left + (x[i] - from) / (to - from) * wide;
      const py = (i) => top + height - (scaled(y[i]) - least) * tall;
      ctx.beginPath();
      let isDown = false;
      for (let i = 0; i < x.length; i += 1) {
        if (y[i] === null || (x[i + 1] ?? x[i]) < from || (x[i - 1] ?? x[i]) > to) { isDown = false; continue; }
        if (isDown) ctx.lineTo(px(i), py(i)); else ctx.moveTo(px(i), py(i));
        // A point between two gaps has no line.
        if (!isDown && (i + 1 >= x.length || y[i + 1] === null)) ctx.fillRect(px(i) - 1.5 * ratio, py(i) - 1.5 * ratio, 3 * ratio, 3 * ratio);
        isDown = true;
      }
      ctx.stroke();
    }

    cross(ctx, x, y, size) {
      ctx.beginPath();
      ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
      ctx.moveTo(x - size, y + size); ctx.lineTo(x + size, y - size);
      ctx.stroke();
    }

    /** Write the names of curves at their right ends, where the sidebar does not say them. */
    writeNames(u, ctx, ratio) {
      const { left, top, width, height } = u.bbox;
      const [, to] = this.window();
      const ends = this.lines.map((one, i) => {
        if (!this.looks[i].isNamed) return null;
        let last = one.x.length - 1;
        while (last >= 0 && (one.y[last] === null || one.x[last] > to)) last -= 1;
        return last < 0 ? null : { text: one.run && this.spec.lines.length === 1 ? one.run : one.name, colour: this.looks[i].colour,
          y: u.valToPos(one.y[last], 'y', true) - 9 * ratio };
      }).filter((end) => end !== null && (this.lines.length > 1 || end.text === undefined));
      if (!ends.length || ends.length > 10) return;
      ends.sort((a, b) => a.y - b.y);
      const step = 12 * ratio;
      ends.forEach((end, i) => { end.y = Math.max(end.y, i ? ends[i - 1].y + step : top + 6 * ratio); });
      const over = ends.at(-1).y - (top + height - 6 * ratio);
      if (over > 0) {
        ends.at(-1).y -= over;
        for (let i = ends.length - 2; i >= 0; i -= 1) ends[i].y = Math.min(ends[i].y, ends[i + 1].y - step);
      }
      ctx.textAlign = 'right'; ctx.textBaseline = 'middle'; ctx.lineWidth = 4 * ratio; ctx.lineJoin = 'round';
      ctx.strokeStyle = this.page.paper(); ctx.setLineDash([]);
      for (const end of ends) {
        const text = end.text.length > 28 ? `${end.text.slice(0, 27)}…` : end.text;
        ctx.strokeText(text, left + width - 3 * ratio, end.y);
        ctx.fillStyle = end.colour; ctx.fillText(text, left + width - 3 * ratio, end.y);
      }
    }

    /** Tell the page what the mouse points at: a place on the axis, and the nearest curve. */
    point(u) {
      const { left, top } = u.cursor;
      if (left === undefined || left < 0) return;
      const x = u.posToVal(left, 'x');
      const shown = this.lines.map((one) => ({ one, value: valueAt(one, x) })).filter(({ value }) => value !== null);
      for (const entry of shown) entry.distance = Math.abs(u.valToPos(entry.value, 'y') - top);
      shown.sort((a, b) => a.distance - b.distance);
      const near = shown[0] && shown[0].distance < 24 ? shown[0].one : null;
      this.page.hover({ chart: this, x, near, shown: shown.slice(0, MANY) });
    }

    follow(x) {
      if (!this.plot || x === null) { this.plot?.setCursor({ left: -10, top: -10 }, false); return; }
      this.isFollowing = true;
      this.plot.setCursor({ left: this.plot.valToPos(x, 'x'), top: -10 }, false);
      this.isFollowing = false;
    }

    /** Read the chart with the keyboard: where the reading is is told by the page's live region. */
    press(event) {
      const key = event.key.toLowerCase();
      const moves = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (key === 'escape') this.page.zoomTo(null);
      else if (key === 'l') this.page.switchScale(this);
      else if (key === 't') this.page.switchTable(this);
      else if (key === 'i') this.page.switchAbout(this);
      else if (moves[key] && this.lines?.length) {
        const [along, between] = moves[key];
        const shown = this.lines.filter((one) => one.x.length);
        this.reading ??= { line: shown[0], place: shown[0].x.length };
        const { reading } = this;
        if (between) {
          const at = reading.line.x[Math.min(reading.place, reading.line.x.length - 1)];
          reading.line = shown[(shown.indexOf(reading.line) + between + shown.length) % shown.length] ?? shown[0];
          reading.place = Math.max(0, reading.line.x.findIndex((x) => x >= at));
        }
        reading.place = Math.min(reading.line.x.length - 1, Math.max(0, reading.place + along));
        const { line, place } = reading;
        this.page.read(this, line, line.x[place], line.y[place], line.odd.includes(place));
      } else return;
      event.preventDefault();
    }

    /** Return a table of the curves, of at most 100 rows spread over them. */
    table() {
      const { page } = this;
      const lines = this.lines ?? this.curves();
      const xs = [...new Set(lines.flatMap((one) => one.x))].sort((a, b) => a - b);
      const every = Math.ceil(xs.length / 100);
      const chosen = xs.filter((_, i) => i % every === 0);
      const byPlace = lines.map((one) => new Map(one.x.map((x, i) => [x, one.odd.includes(i) && one.raw[i] === null ? '✕' : short(one.raw[i], 4)])));
      const head = element('tr', {}, element('th', { scope: 'col' }, page.text(page.state.along)),
        ...lines.map((one) => element('th', { scope: 'col' }, one.label + (one.run ? ` · ${one.run}` : ''))));
      const rows = chosen.map((x) => element('tr', {}, element('th', { scope: 'row' }, short(x, 6)),
        ...byPlace.map((values) => element('td', {}, values.get(x) ?? ''))));
      const caption = `${page.titleOf(this.spec)} · ${chosen.length} ${page.text('of')} ${xs.length} ${page.text('rows')}`;
      return element('div', { class: 'table', tabindex: '0', role: 'region', 'aria-label': caption }, element('table', {},
        element('caption', {}, caption), element('thead', {}, head), element('tbody', {}, ...rows)));
    }

    isFlat() { return this.curves().every(isFlat) && this.spec.lines.length > 0; }

    destroy() { this.plot?.destroy(); this.plot = null; }
  }

  Object.assign(normmon, { Chart, PALETTES, MANY });
})();
