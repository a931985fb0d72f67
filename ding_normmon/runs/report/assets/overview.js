// The first screen: what the run is, what is wrong with it, and its tasks.
'use strict';
(() => {
  const { short, duration, element, Chart } = normmon;
  const SEVERITIES = ['error', 'warning', 'info'];
  /** Cards that are unfolded at first, cards of one rule, and cards of all rules before the others are folded away. */
  const OPEN = 3, OF_A_RULE = 2, SHOWN = 6;

  /** Return the line that says what the runs are and how they are going. */
  const header = (page) => {
    const { text, data } = page;
    const number = (value) => Number(value).toLocaleString('en');
    const time = (seconds) => duration(seconds, text('time units').split(' '));
    const about = data.runs.map((run) => {
      const { state, silent, began, seconds, iterations, steps, seed, ranks, versions } = run.about;
      const parts = [
        ['iterations', number(iterations)], ['steps', steps === null ? null : number(steps)], ['duration', time(seconds)],
        ['ranks', ranks], ['seed', seed], ['records', number(run.records)],
        ['began', began > 1e8 ? new Date(began * 1000).toLocaleString(page.state.language === 'zh' ? 'zh-CN' : 'en-GB', { dateStyle: 'medium', timeStyle: 'short' }) : null],
        ['versions', versions ? Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(', ') : null],
      ].filter(([, value]) => value !== null && value !== undefined && value !== '');
      const how = state === 'silent' || state === 'died' ? `${text(state)} ${time(silent)}`
        : state === 'running' ? `${text('running')} (${text('last')} ${time(silent)} ${text('ago')})` : text(state);
      // Records without a clock, such as those of other programs, do not say how long ago they were.
      const isDated = began > 1e8 || state === 'ended';
      return element('div', { class: 'about' },
        isDated ? element('span', { class: `state ${state}` }, how) : null,
        data.runs.length > 1 ? element('b', {}, run.name) : null,
        ...parts.map(([key, value]) => element('span', {}, element('i', {}, text(key)), ` ${value}`)),
        Object.keys(run.configuration).length ? element('details', { class: 'configuration' },
          element('summary', {}, text('configuration')),
          element('pre', { tabindex: '0' }, JSON.stringify(run.configuration, null, 2))) : null);
    });
    return element('div', {}, ...about);
  };

  /** Return findings as cards: those of one rule about the same tasks are one; the worst is the first. */
  const cardsOf = (page) => {
    const cards = new Map();
    page.data.runs.forEach((run, place) => run.findings.forEach((finding) => {
      const key = [place, finding.rule, finding.tasks.join()].join('|');
      const card = cards.get(key) ?? { run, place, findings: [] };
      card.findings.push(finding);
      cards.set(key, card);
    }));
    for (const card of cards.values()) {
      card.findings.sort((a, b) => (a.cleared !== null) - (b.cleared !== null)
        || SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) || a.since - b.since);
      [card.first] = card.findings;
      card.isActive = card.first.cleared === null;
    }
    return [...cards.values()].sort((a, b) => SEVERITIES.indexOf(a.first.severity) - SEVERITIES.indexOf(b.first.severity)
      || a.first.since - b.first.since);
  };

  const cardOf = (page, card, isOpen) => {
    const { text, state } = page, { first, run } = card;
    const { language } = state;
    const when = ({ since, cleared }) => `${text('since')} ${since}${cleared === null ? '' : ` ${text('until')} ${cleared}`}`;
    const spec = page.chartOf(first);
    const more = card.findings.slice(1);
    const body = element('div', { class: 'body' });
    const fill = () => {
      if (body.childElementCount) return;
      body.append(element('p', { class: 'advice' }, element('i', {}, `${text('advice')}${text('colon')}`), first.advice[language]));
      if (spec) {
        const view = page.viewOf(first, spec);
        const small = new Chart(page, spec, { mini: true, focus: view.focus, zoom: view.zoom, span: view.span });
        small.root.setAttribute('aria-label', `${page.titleOf(spec)}${text('colon')}${first.sentence[language]}`);
        body.append(element('a', { class: 'small-chart', href: view.link, tabindex: '-1', 'aria-hidden': 'true' },
          element('span', {}, `${page.titleOf(spec)} · ${text(state.along)}`), small.root));
        page.draw(small);
      }
      if (more.length) {
        body.append(element('ul', { class: 'further' }, ...more.map((finding) => {
          const other = page.chartOf(finding);
          return element('li', {}, `${finding.sentence[language]} (${when(finding)}) `,
            other ? element('a', { href: page.viewOf(finding, other).link }, text('open')) : null);
        })));
      }
    };
    const summary = element('summary', {},
      element('b', {}, text(first.severity)), ` ${page.data.runs.length > 1 ? `${run.name}: ` : ''}${first.sentence[language]} `,
      element('small', {}, `${first.title[language]}${text('comma')}${when(first)}${more.length ? ` +${more.length}` : ''}`));
    const made = element('details', { class: `card ${first.severity}`, open: isOpen,
      toggle: (event) => { if (event.target.open) fill(); } }, summary);
    if (spec) made.append(element('a', { class: 'see', href: page.viewOf(first, spec).link }, text('open')));
    made.append(body);
    if (isOpen) fill();
    return made;
  };

  const folded = (label, cards, className) => (cards.length
    ? element('details', { class: className }, element('summary', {}, label), element('div', { class: 'cards' }, ...cards)) : null);

  /** Return the section of what was found. */
  const verdict = (page) => {
    const { text, data } = page;
    const cards = cardsOf(page);
    const active = cards.filter((card) => card.isActive);
    const serious = active.filter((card) => card.first.severity !== 'info');
    const notes = active.filter((card) => card.first.severity === 'info');
    const cleared = cards.filter((card) => !card.isActive);
    const made = element('section', { id: 'findings', 'aria-labelledby': 'findings-title' },
      element('h2', { id: 'findings-title' }, text('findings')));
    if (!serious.length) made.append(element('p', { class: 'nothing' }, text('nothing')));
    for (const run of data.runs) {
      const lacking = Object.entries(run.not_judged);
      const called = (rule) => data.rules[rule]?.[page.state.language] ?? rule;
      const judged = Object.keys(data.rules).filter((rule) => !(rule in run.not_judged));
      const name = data.runs.length > 1 ? `${run.name}: ` : '';
      made.append(element('details', { class: 'judged' },
        element('summary', {}, name + page.say(lacking.length ? 'judged but' : 'judged', { records: run.judged, rules: judged.length, lacking: lacking.length })),
        element('p', {}, judged.map(called).join(text('comma'))),
        lacking.length ? element('p', {}, text('not judged')) : null,
        element('ul', {}, ...lacking.map(([rule, why]) => element('li', {}, `${called(rule)}${text('colon')}${why}`)))));
    }
    const list = element('div', { class: 'cards' });
    const seen = {};
    const isEarly = ({ first }) => { seen[first.rule] = (seen[first.rule] ?? 0) + 1; return first.severity === 'error' || seen[first.rule] <= OF_A_RULE; };
    const early = serious.filter(isEarly).slice(0, SHOWN);
    const late = serious.filter((card) => !early.includes(card));
    early.forEach((card, i) => list.append(cardOf(page, card, i < OPEN)));
    const foldedMore = folded(`${text('more')}${text('colon')}${late.length}`, late.map((card) => cardOf(page, card, false)), 'notes');
    made.insertBefore(list, made.querySelector('.judged'));
    const foldedNotes = folded(`${text('notes')}${text('colon')}${notes.length}`, notes.map((card) => cardOf(page, card, false)), 'notes');
    const foldedCleared = folded(`${text('cleared findings')}${text('colon')}${cleared.length}`, cleared.map((card) => cardOf(page, card, false)), 'cleared');
    for (const one of [foldedMore, foldedNotes, foldedCleared]) if (one) made.insertBefore(one, made.querySelector('.judged'));
    return made;
  };

  const SVG = 'http://www.w3.org/2000/svg';
  const sparkline = (values, colour) => {
    const points = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 80 18'); svg.setAttribute('width', '80'); svg.setAttribute('height', '18');
    svg.setAttribute('aria-hidden', 'true');
    if (points.length < 2) return svg;
    const ys = points.map(([, value]) => value), low = Math.min(...ys), high = Math.max(...ys);
    const line = document.createElementNS(SVG, 'polyline');
    line.setAttribute('points', points.map(([i, value]) =>
      `${(i / (values.length - 1) * 78 + 1).toFixed(1)},${(high > low ? 16 - (value - low) / (high - low) * 14 : 9).toFixed(1)}`).join(' '));
    line.setAttribute('fill', 'none'); line.setAttribute('stroke', colour); line.setAttribute('stroke-width', '1.3');
    svg.append(line);
    return svg;
  };

  /** Colours of distances: nothing to be seen, then ever stronger; what is not finite is the strongest. */
  const colourOf = (distance, isDark) => {
    if (distance === null) return null;
    if (distance >= 100) return isDark ? '#ffffff' : '#000000';
    if (distance < 3) return isDark ? '#232a34' : '#eef1f5';
    const strength = Math.min(1, Math.log(distance / 3) / Math.log(10));
    const [from, to] = isDark ? [[90, 66, 30], [255, 110, 80]] : [[255, 224, 160], [190, 30, 20]];
    return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * strength)).join(',')})`;
  };

  const strip = (page, cells) => {
    const canvas = element('canvas', { width: cells.length, height: 1, class: 'strip', 'aria-hidden': 'true' });
    const context = canvas.getContext('2d');
    cells.forEach((distance, i) => {
      const colour = colourOf(distance, page.theme() === 'dark');
      if (colour) { context.fillStyle = colour; context.fillRect(i, 0, 1, 1); }
    });
    return canvas;
  };

  /** Return what the colours of the strips mean. */
  const key = (page) => [['0 – 3', 0], ['3', 3], ['10', 10], ['30 +', 30], [page.text('broken'), 100], [page.text('too early'), null]].map(([words, distance]) => {
    const swatch = element('span', { class: 'swatch' });
    swatch.style.background = colourOf(distance, page.theme() === 'dark') ?? '';
    return element('span', { class: 'key' }, swatch, words);
  });

  const FIGURES = ['return', 'evaluation', 'random', 'share'];

  /** Return the table of the tasks, sorted as the page's state says. */
  const taskTable = (page) => {
    const { text, data, state } = page;
    const rows = data.runs.flatMap((run) => Object.keys(run.tasks).map((id) => {
      const task = Number(id), known = run.figures[id] ?? {};
      const found = run.findings.filter((finding) => finding.tasks.includes(task) && finding.cleared === null && finding.severity !== 'info')
        .sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) || a.since - b.since);
      const cells = run.deviations.tasks?.[id] ?? [];
      const furthest = Math.max(...cells.filter((cell) => cell !== null), 0);
      return { run, task, known, found, cells, furthest, name: run.tasks[id] };
    }));
    if (!rows.length) return null;
    const figures = FIGURES.filter((key) => rows.some(({ known }) => known[key] !== undefined && known[key] !== null));
    const hasCourse = rows.some(({ known }) => known.course?.length > 1), hasStrip = rows.some(({ cells }) => cells.length);
    const values = { task: (row) => row.task, findings: (row) => row.found.length, deviation: (row) => row.furthest };
    for (const key of figures) values[key] = (row) => row.known[key] ?? -Infinity;
    const { key: sorted, down } = state.sort;
    const of = values[sorted] ?? values.task;
    rows.sort((a, b) => (down ? of(b) - of(a) : of(a) - of(b)) || a.task - b.task);
    const heading = (name, about) => element('th', { scope: 'col', 'aria-sort': sorted === name ? (down ? 'descending' : 'ascending') : 'none' },
      element('button', { title: about, click: () => page.sortBy(name) }, text(name), sorted === name ? (down ? ' ▼' : ' ▲') : ''));
    const head = element('tr', {}, heading('task'), data.runs.length > 1 ? element('th', { scope: 'col' }, text('run')) : null,
      ...figures.map((name) => heading(name, normmonTexts[state.language][`${name} about`])),
      hasCourse ? element('th', { scope: 'col' }, text('course')) : null, heading('findings'),
      hasStrip ? heading('deviation', text('deviation about')) : null);
    const body = rows.map(({ run, task, known, found, cells, furthest, name }) => element('tr', { 'data-task': task,
      mouseenter: () => page.highlight(task), mouseleave: () => page.highlight(null) },
      element('th', { scope: 'row' }, element('button', { class: 'task', title: `${text('show task')} ${name}`, click: () => page.openTask(task) },
        element('span', { class: 'dot', 'data-colour': task }), `${task} ${name}`)),
      data.runs.length > 1 ? element('td', {}, run.name) : null,
      ...figures.map((figure) => element('td', { class: 'number', 'data-label': page.isNarrow() ? text(figure) : null }, figure === 'share' && known[figure] !== undefined ? `${Math.round(known[figure] * 100)}%` : short(known[figure]))),
      hasCourse ? element('td', {}, sparkline(known.course ?? [], page.colourOfTask(task))) : null,
      element('td', { class: 'found' }, ...[...Map.groupBy(found, (finding) => finding.rule).values()].flatMap((alike) => {
        const [finding] = alike, spec = page.chartOf(finding);
        const called = finding.title[state.language] + (alike.length > 1 ? ` ×${alike.length}` : '');
        return [spec ? element('a', { href: page.viewOf(finding, spec).link, class: finding.severity }, called)
          : element('span', { class: finding.severity }, called), ' '];
      })),
      hasStrip ? element('td', { class: 'strip-cell' }, element('button', { click: () => page.openTask(task),
        'aria-label': `${text('show task')} ${name}, ${text('deviation')}: ${short(furthest)}` }, strip(page, cells))) : null));
    const edges = data.runs[0].deviations.edges;
    return element('section', { id: 'tasks', 'aria-labelledby': 'tasks-title' }, element('h2', { id: 'tasks-title' }, text('tasks')),
      element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-labelledby': 'tasks-title' },
        element('table', {}, element('thead', {}, head), element('tbody', {}, ...body))),
      hasStrip ? element('p', { class: 'foot' }, `${text('deviation')}${text('colon')}${text('iteration')} ${edges[0]} – ${edges[1]} `, ...key(page)) : null);
  };

  /** Return black or white, whichever is read more easily on a colour of some strength on paper. */
  const inkOn = (colour, strength, paper) => {
    const light = colour.map((value, i) => {
      const under = Number.parseInt(paper.slice(1 + 2 * i, 3 + 2 * i), 16);
      const shown = (under + (value - under) * strength) / 255;
      return shown <= 0.04045 ? shown / 12.92 : ((shown + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179 ? '#000' : '#fff';
  };

  /** Return the conflict matrices, each with a slider over the iterations. */
  const matrices = (page) => {
    const { text, data } = page;
    const found = data.runs.flatMap((run) => Object.entries(run.matrices).map(([name, stack]) => ({ run, name, stack })));
    return found.map(({ run, name, stack }) => {
      const cells = stack.rows.map(() => stack.rows.map(() => element('td')));
      const nameOf = (id) => `${id} ${run.tasks[id] ?? ''}`.trim();
      const shown = element('output', {});
      const slider = element('input', { type: 'range', min: 0, max: stack.iterations.length - 1, value: stack.iterations.length - 1, 'aria-label': `${text('matrix')}${text('colon')}${name}` });
      const fill = () => {
        const at = Number(slider.value);
        shown.textContent = `${text('iteration')} ${stack.iterations[at]}`;
        slider.setAttribute('aria-valuetext', shown.textContent);
        stack.values[at].forEach((row, i) => row.forEach((value, j) => {
          const cell = cells[i][j], strength = Math.min(1, Math.abs(value ?? 0));
          const [r, g, b] = (value ?? 0) < 0 ? [178, 24, 43] : [33, 102, 172];
          cell.style.background = value === null ? 'none' : `rgba(${r},${g},${b},${strength.toFixed(2)})`;
          cell.style.color = value === null ? '' : inkOn([r, g, b], strength, page.paper());
          cell.textContent = value === null ? '✕' : stack.rows.length <= 8 ? value.toFixed(2) : '';
          cell.title = `${nameOf(stack.rows[i])} · ${nameOf(stack.rows[j])}: ${value}`;
        }));
      };
      slider.addEventListener('input', fill);
      fill();
      const head = element('tr', {}, element('td'), ...stack.rows.map((id) => element('th', { scope: 'col', title: nameOf(id) }, String(id))));
      const body = stack.rows.map((id, i) => element('tr', {}, element('th', { scope: 'row' }, nameOf(id)), ...cells[i]));
      const made = element('figure', { class: stack.rows.length <= 8 ? 'matrix few' : 'matrix' }, element('figcaption', {}, `${text('matrix')}${text('colon')}${name.replace(/^conflict\/|\/cosine$/g, '')}${data.runs.length > 1 ? ` · ${run.name}` : ''}`),
        element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `${text('matrix')}${text('colon')}${name}` },
          element('table', {}, element('thead', {}, head), element('tbody', {}, ...body))),
        element('label', { class: 'slider' }, shown, slider));
      made.fill = fill;
      return made;
    });
  };

  /** Return the section of incidents: charts of the steps around each, and what left its level in which order. */
  const incidents = (page) => {
    const { text, data } = page;
    const found = data.runs.flatMap((run) => run.incidents.map((incident) => ({ run, incident })));
    if (!found.length) return null;
    return element('section', { id: 'incidents', 'aria-labelledby': 'incidents-title' }, element('h2', { id: 'incidents-title' }, text('incidents')),
      ...found.map(({ run, incident }, i) => {
        const { since, opened } = incident;
        const body = element('div', {});
        const fill = () => {
          if (body.childElementCount) return;
          if (incident.order.length) {
            body.append(element('p', {}, text('order')), element('ol', { class: 'order' }, ...incident.order.map((one) => element('li', {},
              `${text('iteration')} ${one.iteration}${text('colon')}${text(one.stage)}${text('comma')}${one.metric} `, element('small', {}, `${short(one.value)}${text('comma')}${text('usual')} ${short(one.usual)}`)))));
          }
          const whole = incident.axes.flatMap((axis) => axis.iterations);
          const zoom = [Math.min(...whole), Math.max(...whole)];
          const focus = { tasks: new Set(incident.tasks), metrics: new Set(incident.order.map((one) => one.metric)) };
          body.append(element('div', { class: 'grid' }, ...incident.charts.map((spec) => {
            const chart = new Chart(page, spec, { mini: true, focus, zoom, along: 'iterations', span: { from: since, to: opened, severity: 'error' },
              runs: [{ ...incident, name: run.name, tasks: run.tasks }] });
            page.draw(chart);
            return element('figure', {}, element('figcaption', {}, `${page.titleOf(spec)} · ${text('iterations')}`), chart.root);
          })));
        };
        const made = element('details', { class: 'card error', open: i === 0, toggle: (event) => { if (event.target.open) fill(); } },
          element('summary', {}, element('b', {}, `${text(incident.kind)} `), `${data.runs.length > 1 ? `${run.name}${text('colon')}` : ''}${incident.reason[page.state.language]} `,
            element('small', {}, `${text('iteration')} ${opened}${text('comma')}${text('since')} ${since}`)), body);
        if (i === 0) fill();
        return made;
      }));
  };

  Object.assign(normmon, { header, verdict, taskTable, matrices, incidents });
})();
