// The page: sections of charts under the first screen, and what all charts have in common.
'use strict';
(() => {
  const { Chart, PALETTES, MANY, short, curve, element, header, verdict, taskTable, matrices, incidents, unpack } = normmon;
  const SEVERITY_COLOURS = { light: { error: '#b3261e', warning: '#a86400', info: '#2f6fae' },
    dark: { error: '#ff8a80', warning: '#f0b55a', info: '#7db2ff' } };
  /** Milliseconds of a frame in which charts are drawn. */
  const FRAME = 5;
  let pages = 0;

  /**
   * Draw the page of `data`, which ding_normmon.runs.report.data.page_data makes, into the element `root`.
   *
   * Returns { update(data), drawAll(), charts, ready }. update shows newer data of the same runs where they are; zoom,
   * scroll position and what is folded stay. options.hash = false: leave the address of the page alone.
   */
  const normmonPage = (root, data, options = {}) => {
    const page = { data, id: `normmon-${pages += 1}` };
    const language = ['en', 'zh'].includes(document.documentElement.lang) ? document.documentElement.lang : 'en';
    const state = page.state = {
      language, dark: matchMedia('(prefers-color-scheme: dark)').matches, along: 'iterations', scale: 'fit', smoothing: 0,
      zoom: null, focus: null, hot: null, search: '', sort: { key: 'task', down: false }, open: new Set(), isPrinting: false,
      seeds: false,
    };
    const text = page.text = (key) => normmonTexts[state.language][key] ?? key;
    page.say = (key, values) => text(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
    let charts = [], figures = [], places = {};

    // -- What charts ask ------------------------------------------------------------------------------------------

    page.isNarrow = () => !matchMedia('(min-width: 821px)').matches;
    page.theme = () => (state.dark && !state.isPrinting ? 'dark' : 'light');
    page.paper = () => (page.theme() === 'dark' ? '#14181f' : '#ffffff');
    page.severityColour = (severity) => SEVERITY_COLOURS[page.theme()][severity];
    page.nameOf = (task) => page.data.runs.map((run) => run.tasks[task]).find((name) => name !== undefined) ?? `task ${task}`;
    page.titleOf = (spec) => spec.title[state.language].replace(/^\{task (\d+)\}/, (_, task) => `${task} ${page.nameOf(task)}`);
    page.isIn = (focus, one) => (focus.tasks.size ? focus.tasks.has(one.task) : focus.metrics.has(one.metric));
    page.isAccused = (task) => page.accused.has(task);
    page.taskIndex = (task) => page.order.get(task) ?? 0;
    page.colourOfTask = (task) => {
      const isGrey = page.tasks.length > MANY && !page.isAccused(task);
      return isGrey ? (page.theme() === 'dark' ? '#6d7887' : '#9aa3af') : PALETTES[page.theme()][page.taskIndex(task) % 8];
    };
    page.fullRange = () => places.range;
    page.marksFor = (spec) => page.data.runs.flatMap((run) => run.findings)
      .filter((finding) => finding.severity !== 'info' && finding.metrics.some((metric) => spec.lines.some((line) => line[0] === metric)))
      .map((finding) => ({ x: page.placeOf(finding.found), severity: finding.severity }));
    page.spanFor = (chart) => (state.focus && state.focus.key === chart.spec.key ? state.focus.span : null);

    /** Return where an iteration lies on the present axis. */
    page.placeOf = (iteration) => {
      if (state.along === 'iterations') return iteration;
      for (const run of page.data.runs) for (const axis of run.axes) {
        const xs = axis[state.along];
        if (!xs || axis.iterations.at(-1) < iteration) continue;
        return xs[axis.iterations.findIndex((one) => one >= iteration)];
      }
      return places.range[1];
    };

    /** Return the chart that shows what a finding is about. */
    page.chartOf = (finding) => {
      const holds = (spec, metric) => spec.lines.some((line) => line[0] === metric) && spec.category !== page.data.each_task;
      for (const metric of finding.metrics) {
        const found = page.data.charts.find((spec) => holds(spec, metric));
        if (found) return found;
      }
      // Some are about pairs, which have no curve: the task's curve of the same group is the nearest.
      return page.data.charts.find((spec) => spec.category !== page.data.each_task && finding.group && finding.tasks.length
        && spec.lines.some(([metric, task]) => finding.tasks.includes(task) && metric.includes(`/${finding.group}_task`)));
    };

    /** Return how a finding is looked at: which curves, which stretch of the axis, and the link that opens it so. */
    page.viewOf = (finding, spec) => {
      const last = places.iterations[1], since = finding.since, until = finding.cleared ?? last;
      const room = Math.max((until - since) * 0.5, (last - places.iterations[0]) * 0.08, 1);
      const window = [Math.max(places.iterations[0], since - room), Math.min(last, until + room)];
      const inChart = finding.metrics.filter((metric) => spec.lines.some((line) => line[0] === metric));
      const parts = [`chart-${spec.key}`, `x=${window.map(Math.round).join(':')}`, `since=${since}:${until}`, `as=${finding.severity}`];
      const hasTasks = spec.lines.some((line) => finding.tasks.includes(line[1]));
      if (hasTasks) parts.push(`task=${finding.tasks.join(',')}`);
      else if (inChart.length) parts.push(`metric=${inChart.map(encodeURIComponent).join(',')}`);
      const focus = { tasks: new Set(hasTasks ? finding.tasks : []), metrics: new Set(inChart) };
      return { link: `#${parts.map((part) => part.replace(/;/g, '%3B')).join(';')}`, focus, zoom: window.map(page.placeOf),
        span: { from: page.placeOf(since), to: page.placeOf(until), severity: finding.severity } };
    };

    // -- Highlighting, zooming, reading ---------------------------------------------------------------------------

    const isVisible = (chart) => { const box = chart.root.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight && box.height > 0; };
    let isRecolouring = false;
    const recolour = () => {
      if (isRecolouring) return;
      isRecolouring = true;
      requestAnimationFrame(() => {
        isRecolouring = false;
        for (const chart of charts) { if (!chart.plot) continue; if (isVisible(chart)) chart.recolour(); else chart.isStale = true; }
        root.querySelectorAll('[data-task]').forEach((row) => row.classList.toggle('hot', Number(row.dataset.task) === state.hot));
      });
    };
    page.highlight = (task) => { if (state.hot !== task) { state.hot = task; recolour(); } };
    page.hover = (at) => {
      page.highlight(at?.near?.task ?? null);
      places.tip.hidden = !at;
      for (const chart of charts) if (chart !== at?.chart && chart.plot && isVisible(chart)) chart.follow(at ? at.x : null);
      if (!at) return;
      places.tip.replaceChildren(element('b', {}, `${text(state.along)} ${short(at.x, 6)}`), ...at.shown.map(({ one, value }) =>
        element('span', { class: one === at.near ? 'near' : '' }, `${short(value, 4)}  ${one.label}${one.run ? ` · ${one.run}` : ''}`)));
      const box = at.chart.root.getBoundingClientRect(), own = root.getBoundingClientRect();
      const left = box.left - own.left + at.chart.plot.cursor.left + 70;
      const isLate = left + 240 > own.width;
      places.tip.style.left = `${isLate ? Math.max(0, left - 320) : left}px`;
      places.tip.style.top = `${box.top - own.top + 10}px`;
    };
    page.zoomTo = (zoom) => {
      state.zoom = zoom;
      if (!zoom) { state.focus = null; setHash(''); }
      refreshAll();
    };
    page.switchScale = (chart) => { chart.scale = chart.log ? 'linear' : 'log'; chart.draw(); };
    page.switchTable = (chart) => {
      const figure = chart.root.closest('figure'), old = figure.querySelector('.table');
      if (old) old.remove(); else figure.append(chart.table());
    };
    page.switchAbout = (chart) => {
      const figure = chart.root.closest('figure'), old = figure.querySelector('.definition');
      const words = chart.spec.about[state.language];
      if (old) old.remove(); else if (words) figure.append(element('p', { class: 'definition', role: 'status' }, words));
    };
    page.read = (chart, one, x, y, isOdd) => {
      page.highlight(one.task);
      chart.follow(x);
      places.live.textContent = `${one.label}${text('comma')}${text(state.along)} ${short(x, 6)}${text('colon')}${isOdd && y === null ? text('broken') : short(y, 4)}`;
      places.tip.hidden = true;
    };
    page.sortBy = (key) => {
      state.sort = { key, down: state.sort.key === key ? !state.sort.down : key !== 'task' };
      fillTasks();
      root.querySelector('#tasks [aria-sort]:not([aria-sort=none]) button')?.focus();
    };
    page.openTask = (task) => openAt({ key: `task-${task}`, task });

    const setHash = (hash) => { if (options.hash !== false && location.hash !== hash) history.replaceState(null, '', hash || location.pathname + location.search); };
    /** Open what the address names: a chart, or exactly the chart, stretch and curves of a finding. */
    const openHash = () => {
      const [first, ...rest] = location.hash.slice(1).split(';');
      if (!first.startsWith('chart-')) return;
      const parts = Object.fromEntries(rest.map((part) => { const at = part.indexOf('='); return [part.slice(0, at), decodeURIComponent(part.slice(at + 1))]; }));
      const numbers = (value) => (value ?? '').split(':').map(Number).filter(Number.isFinite);
      const [x, since] = [numbers(parts.x), numbers(parts.since)];
      openAt({ key: decodeURIComponent(first.slice(6)), zoom: x.length === 2 ? x.map(page.placeOf) : null,
        tasks: parts.task ? parts.task.split(',').map(Number) : [], metrics: parts.metric ? parts.metric.split(',') : [],
        span: since.length === 2 ? { from: page.placeOf(since[0]), to: page.placeOf(since[1]), severity: parts.as in SEVERITY_COLOURS.light ? parts.as : 'info' } : null });
    };
    const openAt = ({ key, zoom = null, tasks = [], metrics = [], span = null, task = null }) => {
      const figure = figures.find((one) => one.chart.spec.key === key);
      if (task !== null) page.highlight(task);
      if (!figure) return;
      state.zoom = zoom;
      state.focus = tasks.length || metrics.length ? { tasks: new Set(tasks), metrics: new Set(metrics), key, span } : null;
      for (let at = figure.parentElement; at && at !== root; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true;
      figure.hidden = false;
      refreshAll();
      root.querySelectorAll('figure.target').forEach((one) => one.classList.remove('target'));
      figure.classList.add('target');
      // At once: on a smooth way down every chart that is passed would be drawn.
      figure.scrollIntoView({ behavior: 'instant', block: 'center' });
      figure.chart.draw();
      figure.chart.root.focus({ preventScroll: true });
    };

    // -- Drawing --------------------------------------------------------------------------------------------------

    const waiting = new Set();
    let isDrawing = false;
    const work = () => {
      const begin = performance.now();
      for (const chart of waiting) {
        waiting.delete(chart);
        if (chart.root.isConnected && (chart.width || chart.root.clientWidth)) { chart.draw(); chart.isStale = false; }
        if (performance.now() - begin > FRAME) break;
      }
      isDrawing = waiting.size > 0;
      if (isDrawing) requestAnimationFrame(work);
    };
    /** Draw a chart soon: a few in every frame, so that scrolling stays smooth. */
    page.draw = (chart) => {
      waiting.add(chart);
      if (!isDrawing) { isDrawing = true; requestAnimationFrame(work); }
    };
    const observer = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target, boundingClientRect }) => {
      const { chart } = target;
      chart.isNear = isIntersecting;
      // Asking an element for its size while others change costs a layout of the page.
      chart.width = boundingClientRect.width;
      if (isIntersecting && (!chart.plot || chart.isStale)) page.draw(chart);
    }), { rootMargin: '250px' });
    const refreshAll = () => {
      places.reset.hidden = !state.zoom && !state.focus;
      for (const chart of charts) { if (chart.isNear) page.draw(chart); else { chart.isStale = true; } }
    };

    // -- Building -------------------------------------------------------------------------------------------------

    const measure = () => {
      const { runs } = page.data;
      page.tasks = [...new Set(runs.flatMap((run) => Object.keys(run.tasks)))].map(Number).sort((a, b) => a - b);
      page.accused = new Set(runs.flatMap((run) => run.findings.filter((f) => f.severity !== 'info' && f.cleared === null).flatMap((f) => f.tasks)));
      // Tasks with findings have the first colours: they are the ones that must be told apart.
      const order = page.tasks.length > MANY ? [...page.tasks].sort((a, b) => page.accused.has(b) - page.accused.has(a) || a - b) : page.tasks;
      page.order = new Map(order.map((task, i) => [task, i]));
      const ends = (along) => {
        const all = runs.flatMap((run) => run.axes.map((axis) => axis[along]).filter((xs) => xs?.length));
        const low = Math.min(...all.map((xs) => xs[0])), high = Math.max(...all.map((xs) => xs.at(-1)));
        return !all.length ? [0, 1] : high > low ? [low, high] : [low - 0.5, high + 0.5];
      };
      places.iterations = ends('iterations');
      places.range = ends(state.along);
    };

    const figureOf = (spec) => {
      const chart = new Chart(page, spec);
      const figure = element('figure', { id: `chart-${spec.key}` },
        element('figcaption', {}, element('span', { class: 'title', title: spec.about[state.language] }, page.titleOf(spec)),
          element('span', { class: 'tools' },
            spec.about[state.language] ? element('button', { tabindex: '-1', title: text('about'), click: () => page.switchAbout(chart) }, 'i') : null,
            element('button', { tabindex: '-1', title: text('scale'), click: () => page.switchScale(chart) }, 'log'),
            element('button', { tabindex: '-1', title: text('table'), click: () => page.switchTable(chart) }, '▦'),
            element('a', { tabindex: '-1', href: `#chart-${encodeURIComponent(spec.key)}`, title: text('link') }, '#'))),
        chart.root);
      figure.chart = chart;
      charts.push(chart);
      figures.push(figure);
      observer.observe(chart.root);
      return figure;
    };

    const fold = (key, summary, isOpen, ...children) => {
      const made = element('details', { id: key, class: 'fold', open: state.open.has(key) || (isOpen && !state.open.has(`-${key}`)),
        toggle: (event) => { if (event.target === made) { const on = made.open; state.open.delete(on ? `-${key}` : key); state.open.add(on ? key : `-${key}`); } } },
        summary, ...children);
      return made;
    };

    const buildSections = () => {
      observer.disconnect();
      charts.forEach((chart) => chart.destroy());
      charts = []; figures = [];
      const contents = [];
      const made = page.data.sections.map(({ category, title }, number) => {
        const specs = page.data.charts.filter((spec) => spec.category === category);
        const id = `section-${number}`;
        contents.push(element('li', {}, element('a', { href: `#${id}`, click: () => { document.getElementById(id).open = true; } }, title[state.language])));
        const shown = specs.map((spec) => [spec, figureOf(spec)]);
        const flat = shown.filter(([, figure]) => figure.chart.isFlat());
        const rest = shown.filter((entry) => !flat.includes(entry));
        const detail = rest.filter(([spec]) => spec.prominence === 'detail');
        const main = rest.filter((entry) => !detail.includes(entry));
        const isMain = number === 0 || specs.some((spec) => spec.prominence === 'headline' || spec.category === page.data.each_task);
        const grid = (entries) => element('div', { class: `grid${category === page.data.each_task ? ' close' : ''}` }, ...entries.map(([, figure]) => figure));
        const values = flat.map(([spec, figure]) => `${page.titleOf(spec)} ${short(figure.chart.curves()[0]?.y.find((v) => v !== null))}`);
        const has = (entries) => (entries.length ? entries : null);
        return fold(id, element('summary', {}, element('h2', {}, title[state.language], ' ', element('small', {}, String(specs.length)))), isMain,
          has(main) && grid(main), category === 'Conflict' ? element('div', { class: 'grid wide' }, ...matrices(page)) : null,
          has(detail) && fold(`${id}-details`, element('summary', {}, `${text('details')}${text('colon')}${detail.length}`), !main.length, grid(detail)),
          has(flat) && fold(`${id}-flat`, element('summary', {}, `${text('flat')}${text('colon')}${values.join(text('comma'))}`), false, grid(flat)));
      });
      if (!page.data.sections.some(({ category }) => category === 'Conflict')) made.push(...matrices(page));
      places.charts.replaceChildren(...made, element('p', { class: 'foot' }, text('thinned')));
      places.contents.replaceChildren(...contents);
      search();
    };

    const search = () => {
      const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = ({ spec }) => words.every((word) => spec.lines.some((line) => line[0].toLowerCase().includes(word))
        || page.titleOf(spec).toLowerCase().includes(word));
      for (const figure of figures) figure.hidden = words.length > 0 && !fits(figure.chart);
      for (const made of places.charts.querySelectorAll('details.fold')) {
        const found = [...made.querySelectorAll('figure[id]')].some((figure) => !figure.hidden);
        made.hidden = !found;
        if (words.length && found && !made.open) { made.open = true; made.wasClosed = true; }
        if (!words.length && made.wasClosed) { made.open = false; made.wasClosed = false; }
      }
      places.noMatch.hidden = !words.length || figures.some((figure) => !figure.hidden);
    };

    const colourDots = () => root.querySelectorAll('[data-colour]').forEach((dot) => { dot.style.background = page.colourOfTask(Number(dot.dataset.colour)); });
    const fillTasks = () => { places.tasks.replaceChildren(...[taskTable(page)].filter(Boolean)); colourDots(); };
    const fillOverview = () => {
      places.header.replaceChildren(header(page));
      const kept = [...places.verdict.querySelectorAll('details')].map((one) => one.open);
      places.verdict.replaceChildren(verdict(page));
      const folds = [...places.verdict.querySelectorAll('details')];
      if (kept.length === folds.length) folds.forEach((one, i) => { one.open = kept[i]; });
      fillTasks();
      const warnings = page.data.runs.flatMap((run) => run.warnings);
      places.notes.replaceChildren(...[incidents(page), warnings.length ? element('details', { class: 'warnings', open: true }, element('summary', {}, element('h2', {}, text('warnings'))),
        element('ul', {}, ...warnings.map((warning) => element('li', {}, warning)))) : null, changesTable()].filter(Boolean));
    };
    const changesTable = () => {
      const { changes, runs } = page.data;
      if (!changes.length) return null;
      const cell = (tag, scope) => (value) => element(tag, { scope }, value);
      return element('details', { class: 'changes', open: true }, element('summary', {}, element('h2', {}, text('changes'))),
        element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': text('changes') }, element('table', {},
          element('thead', {}, element('tr', {}, ...[text('metric'), ...runs.map((run) => run.name), text('ratio'), text('change')].map(cell('th', 'col')))),
          element('tbody', {}, ...changes.map((change) => element('tr', {}, cell('th', 'row')(change.metric),
            ...[...change.levels, change.ratio, change.spreads].map(cell('td'))))))));
    };

    const select = (label, key, choices, then) => element('label', {}, `${text(label)} `,
      element('select', { change: (event) => { state[key] = event.target.value; then(); } },
        ...choices.map(([value, name]) => element('option', { value, selected: state[key] === value }, text(name)))));

    const build = () => {
      measure();
      const { runs } = page.data;
      const hasSteps = runs.some((run) => run.axes.some((axis) => axis.steps));
      const hasSeeds = new Set(runs.map((run) => run.experiment)).size < runs.length;
      root.lang = state.language;
      root.classList.add('normmon');
      root.dataset.theme = state.dark ? 'dark' : 'light';
      places = { ...places, header: element('div'), verdict: element('div', { class: 'verdict' }), tasks: element('div', { class: 'tasks' }),
        notes: element('div'), charts: element('div', { class: 'sections', id: 'charts', tabindex: '-1' }), contents: element('ul', {}),
        live: element('div', { class: 'unseen', 'aria-live': 'polite' }), tip: element('div', { class: 'tip', hidden: true, 'aria-hidden': 'true' }),
        noMatch: element('p', { hidden: true, role: 'status' }, text('no match')),
        reset: element('button', { class: 'reset', hidden: true, click: () => page.zoomTo(null) }, text('reset')) };
      const legend = page.tasks.length ? [element('h3', {}, text('tasks')), element('ul', { class: 'legend' }, ...page.tasks.map((task) => element('li', { 'data-task': task },
        element('button', { title: page.nameOf(task), mouseenter: () => page.highlight(task), mouseleave: () => page.highlight(null), focus: () => page.highlight(task),
          blur: () => page.highlight(null), click: () => page.openTask(task) },
          element('span', { class: 'dot', 'data-colour': task }), element('span', { class: 'name' }, `${task} ${page.nameOf(task)}`)))))] : [];
      const controls = element('div', { class: 'controls' },
        select('axis', 'along', [['iterations', 'iterations'], ...(hasSteps ? [['steps', 'steps']] : []), ['times', 'times']], () => { state.zoom = null; measure(); refreshAll(); fillOverview(); }),
        select('scale', 'scale', [['fit', 'fit'], ['log', 'log'], ['linear', 'linear']], () => { charts.forEach((chart) => { chart.scale = null; }); refreshAll(); }),
        element('label', {}, `${text('smoothing')} `, element('input', { type: 'range', min: 0, max: 0.98, step: 0.02, value: state.smoothing,
          input: (event) => { state.smoothing = Number(event.target.value); refreshAll(); } })),
        hasSeeds ? element('label', {}, element('input', { type: 'checkbox', checked: state.seeds, change: (event) => { state.seeds = event.target.checked; refreshAll(); } }), ` ${text('seeds')}`) : null,
        places.reset,
        element('button', { class: 'theme', click: () => { state.dark = !state.dark; build(); } }, text('theme')),
        element('button', { class: 'language', lang: state.language === 'en' ? 'zh' : 'en', click: () => {
          state.language = state.language === 'en' ? 'zh' : 'en'; document.documentElement.lang = state.language; build(); } }, text('language')));
      root.replaceChildren(
        element('a', { class: 'skip', href: '#charts', click: (event) => { event.preventDefault(); places.charts.focus(); } }, text('skip')),
        element('div', { class: 'top' }, element('h1', {}, runs.map((run) => run.name).join(' · ')), places.header, controls),
        element('div', { class: 'columns' },
          element('details', { class: 'side', open: !page.isNarrow() }, element('summary', {}, text('sidebar')),
            element('label', {}, element('span', { class: 'unseen' }, text('search')), element('input', { type: 'search', placeholder: text('search'), value: state.search,
              input: (event) => { state.search = event.target.value; search(); } })), places.noMatch,
            ...legend, element('h3', {}, text('contents')), element('nav', { 'aria-label': text('contents') }, places.contents)),
          element('div', { class: 'content' }, element('div', { class: 'overview' }, places.verdict, places.tasks), places.notes, places.charts)),
        places.live, places.tip, element('p', { class: 'unseen', id: `${page.id}-keys` }, text('chart keys')));
      fillOverview();
      buildSections();
      refreshAll();
      colourDots();
    };

    const print = (isPrinting) => {
      state.isPrinting = isPrinting;
      root.classList.toggle('printing', isPrinting);
      root.dataset.theme = page.theme();
      fillTasks();
      for (const chart of charts) chart.width = 0;
      root.querySelectorAll('.matrix').forEach((made) => made.fill());
      for (const made of root.querySelectorAll('details.fold, details.notes, details.cleared')) {
        if (made.id.endsWith('-flat')) continue;
        if (isPrinting && !made.open) { made.open = true; made.wasFolded = true; }
        if (!isPrinting && made.wasFolded) { made.open = false; made.wasFolded = false; }
      }
      [...charts, ...[...root.querySelectorAll('.plot.mini')].map((one) => one.chart)].forEach((chart) => { if (chart.root.clientWidth) chart.draw(); });
    };
    addEventListener('beforeprint', () => print(true));
    addEventListener('afterprint', () => print(false));
    addEventListener('hashchange', openHash);
    let width = root.clientWidth;
    new ResizeObserver(() => {
      if (root.clientWidth === width || state.isPrinting) return;
      width = root.clientWidth;
      for (const chart of charts) chart.width = 0;
      refreshAll();
      root.querySelectorAll('.plot.mini').forEach((one) => page.draw(one.chart));
    }).observe(root);

    state.seeds = new Set(data.runs.map((run) => run.experiment)).size < data.runs.length;
    build();
    openHash();
    root.dataset.ready = 'yes';

    return {
      get charts() { return charts.length; },
      ready: performance.now(),
      page,
      drawAll: () => charts.forEach((chart) => { if (chart.root.clientWidth) chart.draw(); }),
      /** Show newer data; the page stays where it is. */
      update: (newer) => {
        const keys = (of) => JSON.stringify([of.charts.map((spec) => spec.lines), of.runs.map((run) => run.tasks)]);
        const isSame = keys(newer) === keys(page.data);
        page.data = newer;
        if (!isSame) { const top = scrollY; build(); scrollTo({ top, behavior: 'instant' }); return; }
        measure();
        fillOverview();
        refreshAll();
      },
    };
  };
  normmonPage.unpack = unpack;
  globalThis.normmonPage = normmonPage;
})();
