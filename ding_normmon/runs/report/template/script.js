'use strict';
(async () => {
  const unpack = async (id) => {
    const raw = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Response(stream).text();
  };
  const [data, texts, library] = await Promise.all([
    unpack('payload').then(JSON.parse), unpack('texts').then(JSON.parse), unpack('library')]);
  const script = document.createElement('script');
  script.textContent = library;
  document.head.append(script);
  const Plotly = window.Plotly;

  const state = {
    language: document.documentElement.lang, log: false, hidden: new Set(), drawn: new Map(),
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
  };
  const text = (key) => texts[state.language][key] ?? key;
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const runs = data.runs;
  const tasks = [...new Set(runs.flatMap((run) => Object.keys(run.tasks)))].map(Number).sort((a, b) => a - b);
  const nameOf = (task) => runs.map((run) => run.tasks[task]).find((name) => name !== undefined) ?? `task ${task}`;
  // Okabe and Ito's colours, which colour-blind people tell apart; then the same with other dashes.
  const palette = ['#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#8a7a00', '#7f7f7f'];
  const dashes = ['solid', 'dash', 'dot', 'dashdot'];
  const colour = (number) => palette[number % palette.length];
  const dash = (number) => dashes[Math.floor(number / palette.length) % dashes.length];
  const fade = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(',')},${alpha})`;
  // Plotly knows tags, entities and %{...}: what looks like one is written with signs that only look like them.
  const escaped = (name) => String(name).replace(/&/g, '＆').replace(/</g, '‹').replace(/>/g, '›').replace(/%\{/g, '％{');

  const titleOf = (chart) => {
    const title = chart.title.replace(/^\{task (\d+)\}$/, (_, task) => `${task} ${nameOf(Number(task))}`);
    if (state.language === 'en' || title !== chart.title) return title;
    return Object.entries(texts.terms).reduce((so, [english, chinese]) => so.replaceAll(english, chinese), title);
  };
  const findingsOf = (chart) => runs.flatMap((run) => run.findings.filter((finding) =>
    finding.metrics.some((metric) => chart.lines.some((line) => line[0] === metric)) ));

  const traces = (chart) => {
    const found = [];
    runs.forEach((run, place) => chart.lines.forEach((line, number) => {
      const [metric, task, label, low, high, spread] = line;
      const series = run.series[metric];
      if (!series || (task !== null && state.hidden.has(task))) return;
      const index = task !== null && !chart.small ? tasks.indexOf(task) : number;
      const isOnly = chart.lines.length === 1 && task === null;
      const hex = runs.length > 1 && isOnly ? colour(place) : colour(index);
      const called = task !== null && !chart.small ? nameOf(task) : label;
      const name = escaped(runs.length > 1 ? (isOnly ? run.name : `${called} · ${run.name}`) : called);
      const x = series[0];
      const y = series[1].map((value) => (typeof value === 'string' ? null : value));
      const edge = (which) => run.series[which] && run.series[which][1].map((v) => (typeof v === 'string' ? null : v));
      const fill = (lower, upper, alpha) => {
        const common = { x, mode: 'lines', line: { width: 0 }, hoverinfo: 'skip', showlegend: false };
        found.push({ ...common, y: lower }, { ...common, y: upper, fill: 'tonexty', fillcolor: fade(hex, alpha) });
      };
      if (low && high && run.series[low] && run.series[high]) fill(edge(low), edge(high), 0.12);
      if (spread && run.series[spread] && run.series[spread][0].length === x.length) {
        const deviation = edge(spread);
        fill(y.map((v, i) => v === null || deviation[i] === null ? null : v - deviation[i]),
             y.map((v, i) => v === null || deviation[i] === null ? null : v + deviation[i]), 0.25);
      }
      const style = runs.length > 1 && !isOnly ? dashes[place % dashes.length] : dash(index);
      found.push({ x, y, name, mode: x.length < 3 ? 'markers' : 'lines', connectgaps: false,
        line: { color: hex, width: 1.6, dash: style }, hovertemplate: `%{y:.4g}<extra>${name}</extra>` });
      const odd = x.filter((_, i) => typeof series[1][i] === 'string');
      if (odd.length) found.push({ x: odd, y: odd.map(() => 0), yaxis: 'y2', mode: 'markers', name: `${name}: NaN, inf`,
        marker: { symbol: 'x', color: hex, size: 8 }, showlegend: false });
    }));
    return found;
  };

  const rangeOf = (scale) => {
    let low = Infinity, high = -Infinity;
    for (const section of data.sections) for (const chart of section.charts) if (chart.scale === scale) {
      for (const run of runs) for (const line of chart.lines) {
        if (line[1] !== null && state.hidden.has(line[1])) continue;
        for (const value of run.series[line[0]]?.[1] ?? []) if (typeof value === 'number' && (!state.log || value > 0)) {
          low = Math.min(low, value); high = Math.max(high, value);
        }
      }
    }
    if (!(high >= low)) return undefined;
    if (state.log) return [Math.log10(low) - 0.05, Math.log10(high) + 0.05];
    return [Math.min(0, low), high * 1.05];
  };

  const paint = () => ({ ink: state.dark ? '#e6eaf0' : '#1d2430', line: state.dark ? '#2c3440' : '#e4e8ee',
    paper: state.dark ? '#14181f' : '#ffffff' });

  const layoutOf = (chart) => {
    const { ink, line, paper } = paint();
    const marks = findingsOf(chart).map((finding) => ({ type: 'line', xref: 'x', yref: 'paper', x0: finding.found,
      x1: finding.found, y0: 0, y1: 1, line: { width: 1.4, dash: 'dot',
        color: { info: '#2f6fae', warning: '#d98a00', error: '#d33a2f' }[finding.severity] } }));
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    return { margin: { l: 52, r: 10, t: 8, b: 34 }, paper_bgcolor: paper, plot_bgcolor: paper, shapes: marks,
      font: { size: 11, color: ink }, hovermode: 'x unified', showlegend: !chart.small || runs.length > 1 || true,
      legend: { orientation: 'h', y: -0.16, font: { size: 10 } },
      xaxis: { ...axis, title: undefined }, uirevision: 'kept',
      yaxis: { ...axis, type: state.log ? 'log' : 'linear', ...(chart.scale ? { range: rangeOf(chart.scale) } : {}) },
      yaxis2: { overlaying: 'y', visible: false, range: [-0.5, 10], fixedrange: true } };
  };
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'] };

  const draw = (plot) => {
    const chart = plot.chart;
    const before = state.drawn.has(plot);
    state.drawn.set(plot, true);
    plot.dataset.drawn = 'yes';
    if (plot.matrix) return drawMatrix(plot);
    return before ? Plotly.react(plot, traces(chart), layoutOf(chart), config)
                  : Plotly.newPlot(plot, traces(chart), layoutOf(chart), config);
  };
  const drawMatrix = (plot) => {
    const { run, name, stack, slider, shown } = plot.matrix;
    const at = Number(slider.value);
    const kept = stack.rows.map((row, i) => i).filter((i) => !state.hidden.has(stack.rows[i]));
    const labels = kept.map((i) => escaped(`${stack.rows[i]} ${run.tasks[stack.rows[i]] ?? ''}`.trim().slice(0, 24)));
    const { ink, paper } = paint();
    shown.textContent = stack.iterations[at];
    slider.setAttribute('aria-valuetext', `${text('iteration')} ${stack.iterations[at]}`);
    const z = kept.map((i) => kept.map((j) => stack.values[at][i][j]));
    return Plotly.react(plot, [{ type: 'heatmap', x: labels, y: labels, z, zmin: -1, zmax: 1,
      colorscale: [[0, '#b2182b'], [0.5, state.dark ? '#2a303a' : '#f7f7f7'], [1, '#2166ac']],
      texttemplate: kept.length <= 8 ? '%{z:.2f}' : '', hovertemplate: '%{y}<br>%{x}<br>%{z:.3f}<extra></extra>',
      colorbar: { thickness: 10, len: 0.9 } }],
      { margin: { l: 150, r: 10, t: 8, b: 110 }, paper_bgcolor: paper, plot_bgcolor: paper, font: { size: 10, color: ink },
        yaxis: { autorange: 'reversed' } }, config);
  };
  const redraw = () => [...state.drawn.keys()].forEach(draw);

  const charts = document.getElementById('charts');
  const plots = [];
  const figureOf = (chart, caption) => {
    const id = `chart-${chart.key.replace(/[^\w-]+/g, '-')}`;
    const plot = element('div', { class: 'plot', role: 'img', 'aria-label': titleOf(chart) });
    plot.chart = chart;
    plots.push(plot);
    const link = element('a', { href: `#${id}`, 'aria-label': text('link') }, '#');
    const title = element('span', { title: chart.about ?? '' }, caption ?? titleOf(chart));
    if (!caption) title.chart = chart;
    title.className = 'title';
    return element('figure', { id }, element('figcaption', {}, title, link), plot);
  };
  const contents = document.getElementById('contents');
  const entry = (id, key) => contents.append(element('li', {}, element('a', { href: `#${id}`, 'data-text': key })));
  entry('findings', 'findings');
  if (document.getElementById('changes')) entry('changes', 'changes');
  entry('tasks', 'tasks');
  const addMatrices = () => {
    const matrices = runs.flatMap((run) => Object.entries(run.matrices).map(([name, stack]) => ({ run, name, stack })));
    if (!matrices.length) return;
    const grid = element('div', { class: 'grid square' });
    for (const { run, name, stack } of matrices) {
      const chart = { key: `matrix-${run.name}-${name}`, title: name, lines: [], about: '' };
      const figure = figureOf(chart, `${name}${runs.length > 1 ? ` · ${run.name}` : ''}`);
      const slider = element('input', { type: 'range', min: 0, max: stack.iterations.length - 1, 'aria-label': name });
      slider.value = stack.iterations.length - 1;
      const shown = element('span', { class: 'at' });
      const plot = figure.querySelector('.plot');
      plot.matrix = { run, name, stack, slider, shown };
      slider.addEventListener('input', () => draw(plot));
      figure.append(element('div', { class: 'slider' }, element('span', { 'data-text': 'cosine' }), shown, slider));
      grid.append(figure);
    }
    charts.append(element('section', { id: 'conflict' }, element('h2', { 'data-text': 'conflict' }), grid));
    entry('conflict', 'conflict');
  };
  for (const section of data.sections) {
    if (section.key === 'balance') addMatrices();
    const large = section.charts.filter((chart) => !chart.small), small = section.charts.filter((chart) => chart.small);
    const made = element('section', { id: section.key }, element('h2', { 'data-text': section.key }));
    if (section.key === 'signals') made.append(element('p', { class: 'foot', 'data-text': 'band' }));
    if (large.length) made.append(element('div', { class: 'grid' }, ...large.map((chart) => figureOf(chart))));
    if (small.length) made.append(element('div', { class: 'grid small' }, ...small.map((chart) => figureOf(chart))));
    charts.append(made);
    entry(section.key, section.key);
  }
  if (!data.sections.some((section) => section.key === 'balance')) addMatrices();

  const chartOfFinding = (finding) => {
    for (const plot of plots) {
      if (!plot.matrix && plot.chart.lines.some((line) => finding.metrics.includes(line[0]))) return plot.parentElement.id;
    }
    return null;
  };
  const writeFindings = () => {
    const list = document.getElementById('finding-list');
    list.replaceChildren();
    const order = { error: 0, warning: 1, info: 2 };
    const all = runs.flatMap((run) => run.findings.map((finding) => ({ ...finding, run })));
    all.sort((a, b) => order[a.severity] - order[b.severity] || a.found - b.found);
    const item = (finding) => {
      const when = `${text('since')} ${finding.since}` + (finding.cleared === null ? '' : `, ${text('until')} ${finding.cleared}`);
      const head = element('p', {}, element('b', {}, finding.severity), ` ${runs.length > 1 ? `${finding.run.name}: ` : ''}${finding.sentence}`);
      const more = element('p', { class: 'more' }, `${finding.rule}, ${when}. ${text('try')}: ${finding.advice} `);
      const chart = chartOfFinding(finding);
      if (chart) more.append(element('a', { href: `#${chart}` }, text('see')));
      return element('li', { class: `finding ${finding.severity}` }, head, more);
    };
    const serious = all.filter((finding) => finding.severity !== 'info'), info = all.filter((f) => f.severity === 'info');
    if (!serious.length) list.append(element('li', {}, text('none')));
    list.append(...serious.map(item));
    if (info.length) {
      const inner = element('ol', { style: 'list-style:none;padding:0;display:grid;gap:8px' }, ...info.map(item));
      list.append(element('li', {}, element('details', {}, element('summary', {}, `info: ${info.length}`), inner)));
    }
  };
  const writeTasks = () => {
    const number = (value) => (value === undefined ? '–' : Number(value).toPrecision(3));
    const head = ['', ...(runs.length > 1 ? ['run'] : []), 'task', 'first', 'last', 'best', 'value loss', 'worst'];
    const rows = tasks.flatMap((task) => runs.filter((run) => task in run.tasks).map((run) => {
      const returns = (run.series[`collect/${run.tasks[task]}/return`]?.[1] ?? []).filter((v) => typeof v === 'number');
      const loss = (run.series[`noreduce_value_loss_task${task}`]?.[1] ?? []).filter((v) => typeof v === 'number');
      const about = run.findings.filter((finding) => finding.tasks.includes(task) && finding.severity !== 'info').length;
      const cells = [...(runs.length > 1 ? [run.name] : []), run.tasks[task], number(returns[0]), number(returns.at(-1)),
        number(returns.length ? Math.max(...returns) : undefined), number(loss.at(-1)), String(about || '–')];
      return element('tr', {}, element('th', { scope: 'row' }, String(task)), ...cells.map((cell) => element('td', {}, cell)));
    }));
    document.getElementById('task-table').replaceChildren(element('table', {},
      element('thead', {}, element('tr', {}, ...head.map((key) => element('th', { scope: 'col' }, key ? text(key) : '')))),
      element('tbody', {}, ...rows)));
    document.getElementById('tasks').hidden = !tasks.length;
  };

  const boxes = document.getElementById('task-boxes');
  for (const task of tasks) {
    const index = tasks.indexOf(task);
    const box = element('input', { type: 'checkbox', checked: '', 'data-task': task });
    box.addEventListener('change', () => { box.checked ? state.hidden.delete(task) : state.hidden.add(task); redraw(); });
    const dot = element('span', { class: 'dot' });
    dot.style.borderTopColor = colour(index);
    dot.style.borderTopStyle = { solid: 'solid', dash: 'dashed', dot: 'dotted', dashdot: 'double' }[dash(index)];
    boxes.append(element('label', {}, box, dot, `${task} ${nameOf(task)}`));
  }
  document.getElementById('task-filter').hidden = !tasks.length;
  const setAll = (on) => {
    tasks.forEach((task) => (on ? state.hidden.delete(task) : state.hidden.add(task)));
    boxes.querySelectorAll('input').forEach((box) => { box.checked = on; });
    redraw();
  };
  document.getElementById('all').addEventListener('click', () => setAll(true));
  document.getElementById('no-task').addEventListener('click', () => setAll(false));
  document.getElementById('log').addEventListener('change', (event) => { state.log = event.target.checked; redraw(); });
  const setTheme = () => { document.documentElement.dataset.theme = state.dark ? 'dark' : 'light'; };
  document.getElementById('theme').addEventListener('click', () => { state.dark = !state.dark; setTheme(); redraw(); });
  const translate = () => {
    document.documentElement.lang = state.language;
    document.querySelectorAll('[data-text]').forEach((node) => { node.textContent = text(node.dataset.text); });
    document.querySelectorAll('.title').forEach((node) => { if (node.chart) node.textContent = titleOf(node.chart); });
    writeFindings();
    writeTasks();
  };
  document.getElementById('language').addEventListener('click', () => {
    state.language = state.language === 'en' ? 'zh' : 'en'; translate(); });

  setTheme();
  translate();
  const observer = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) { observer.unobserve(entry.target); draw(entry.target); }
  }), { rootMargin: '300px' });
  plots.forEach((plot) => observer.observe(plot));
  window.addEventListener('beforeprint', () => plots.forEach((plot) => { if (!state.drawn.has(plot)) draw(plot); }));
  // At once: a smooth way down would pass by every chart above, and each that is passed is drawn.
  const linked = location.hash && document.getElementById(location.hash.slice(1));
  if (linked) linked.scrollIntoView({ behavior: 'instant' });
  window.report = { ready: performance.now(), drawAll: () => Promise.all(plots.map(draw)), charts: plots.length };
})();
