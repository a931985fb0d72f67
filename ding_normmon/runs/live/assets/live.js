// The page of runs that train: which runs are shown, and newer data every few seconds. The entry of TensorBoard's tab.
const EVERY = 3000;
/** Longest pause: the first answer of a server may take long, and says nothing of the next one. */
const LONGEST = 10000;
const MOST = 12;
/** Share by which a silence has grown before the page shows it anew. */
const GROWTH = 1.2;

const TEXTS = {
  en: { runs: 'Runs', search: 'Find a run', only: 'show only this run', add: 'compare', waiting: 'There is no run here yet.',
    gone: 'The server does not answer; trying again.', reading: 'Reading…', seconds: 's ago', minutes: 'min ago', hours: 'h ago', days: 'd ago' },
  zh: { runs: '运行', search: '查找运行', only: '只显示此运行', add: '对比', waiting: '这里还没有运行。',
    gone: '服务器没有响应；正在重试。', reading: '读取中…', seconds: '秒前', minutes: '分钟前', hours: '小时前', days: '天前' },
};
const text = (key) => TEXTS[document.documentElement.lang === 'zh' ? 'zh' : 'en'][key];
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) key in made ? made[key] = value : made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const ago = (seconds) => {
  const [amount, unit] = seconds < 90 ? [seconds, 'seconds'] : seconds < 5400 ? [seconds / 60, 'minutes']
    : seconds < 172800 ? [seconds / 3600, 'hours'] : [seconds / 86400, 'days'];
  return `${Math.max(0, Math.round(amount))} ${text(unit)}`;
};
const loaded = (one) => new Promise((then, fail) => {
  one.onload = then;
  one.onerror = () => fail(new Error(one.src ?? one.href));
  document.head.append(one);
});

export async function render() {
  const root = document.documentElement;
  if (!root.lang) root.lang = navigator.language.startsWith('zh') ? 'zh' : 'en';
  // TensorBoard gives the page a base, against which a link to a place in the page would leave it.
  const hasBase = document.querySelector('base') !== null;
  const settings = await (await fetch('./settings')).json();
  const styles = [...settings.styles, 'live.css'].map((name) => loaded(make('link', { rel: 'stylesheet', href: `./static/${name}` })));
  for (const name of settings.scripts) await loaded(make('script', { src: `./static/${name}` }));
  await Promise.all(styles);

  const asked = new URLSearchParams(location.search).getAll('run');
  const state = { runs: [], chosen: asked, version: '', data: null, page: null, told: [], search: '' };
  const list = make('ul'), summary = make('summary'), note = make('p', { role: 'status', className: 'note' }), main = make('main');
  const find = make('input', { type: 'search', oninput: () => { state.search = find.value.toLowerCase(); fill(); } });
  const choice = make('details', { className: 'runs' }, summary, find, list);
  document.body.append(make('div', { className: 'live' }, choice, note), main);

  const say = (words) => { if (note.textContent !== words) note.textContent = words; note.hidden = !words; };
  const fill = () => {
    const shown = state.runs.filter((run) => run.shown.toLowerCase().includes(state.search));
    const names = state.runs.filter((run) => state.chosen.includes(run.name)).map((run) => run.shown);
    summary.textContent = `${text('runs')}: ${names.join(' · ') || '–'} (${state.chosen.length}/${state.runs.length})`;
    find.placeholder = text('search');
    find.setAttribute('aria-label', text('search'));
    const focused = document.activeElement?.dataset?.key;
    list.replaceChildren(...shown.map((run) => {
      const box = make('input', { type: 'checkbox', checked: state.chosen.includes(run.name), title: text('add'),
        onchange: () => choose(box.checked ? [...state.chosen, run.name].slice(-MOST) : state.chosen.filter((name) => name !== run.name)) });
      box.setAttribute('aria-label', `${text('add')}: ${run.shown}`);
      const only = make('button', { type: 'button', title: text('only'), onclick: () => choose([run.name]) }, run.shown);
      box.dataset.key = `box ${run.name}`;
      only.dataset.key = `only ${run.name}`;
      return make('li', {}, box, only, make('small', {}, ago(Date.now() / 1000 - run.changed)));
    }));
    if (focused) [...list.querySelectorAll('[data-key]')].find((one) => one.dataset.key === focused)?.focus({ preventScroll: true });
  };
  const choose = (names) => {
    if (!names.length) return fill();
    Object.assign(state, { chosen: names, version: '', told: [] });
    if (!hasBase) history.replaceState(null, '', `?${new URLSearchParams(names.map((name) => ['run', name]))}`);
    fill();
    say(text('reading'));
    return look();
  };

  const draw = () => {
    document.title = state.data.runs.map((run) => run.name).join(' · ');
    if (state.page) return state.page.update(state.data);
    state.page = normmonPage(main, state.data, { hash: !hasBase });
    window.page = state.page;
    follow();
  };
  /** Take what has become of runs whose files have not changed: silence grows without a new point. */
  const take = (told) => {
    const isNews = told.some((one, i) => one.state !== state.told[i]?.state || one.silent > GROWTH * (state.told[i]?.silent ?? 0) + EVERY / 1000);
    if (!isNews) return;
    state.told = told;
    told.forEach((one, i) => Object.assign(state.data.runs[i].about, one));
    draw();
  };
  /** TensorBoard's own choice of light or dark counts. */
  const follow = () => {
    if (!hasBase || window.parent === window) return;
    const body = window.parent.document.body;
    const isDark = () => body.classList.contains('dark-mode');
    const fit = () => { if ((main.dataset.theme === 'dark') !== isDark()) main.querySelector('button.theme')?.click(); };
    fit();
    new MutationObserver(fit).observe(body, { attributes: true, attributeFilter: ['class'] });
  };

  const ask = async () => {
    const listed = await (await fetch('./runs')).json();
    state.runs = listed.runs;
    if (!state.chosen.length && state.runs.length) state.chosen = [state.runs[0].name];
    fill();
    if (!state.chosen.length) return say(text('waiting'));
    if (!state.data) say(text('reading'));
    const chosen = state.chosen;
    const query = new URLSearchParams([...chosen.map((name) => ['name', name]), ['known', state.version]]);
    const answer = await fetch(`./run?${query}`);
    const content = await answer.json();
    // Somebody may have chosen other runs meanwhile.
    if (chosen !== state.chosen) return;
    if (content.error) return say(content.error);
    say('');
    if (content.told) return take(content.told);
    Object.assign(state, { version: answer.headers.get('X-Normmon-Version'), data: content });
    state.told = content.runs.map((run) => run.about);
    draw();
  };
  let timer = 0, number = 0;
  const look = async () => {
    clearTimeout(timer);
    const own = number += 1;
    const begin = performance.now();
    const isSeen = !document.hidden && window.innerWidth > 0;
    try { if (isSeen) await ask(); } catch (error) { if (error instanceof TypeError || error instanceof SyntaxError) say(text('gone')); else throw error; } finally {
      if (own === number) timer = setTimeout(look, Math.min(LONGEST, Math.max(EVERY, performance.now() - begin)));
    }
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
  new MutationObserver(fill).observe(root, { attributes: true, attributeFilter: ['lang'] });
  if (hasBase) document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.defaultPrevented) return;
    event.preventDefault();
    if (location.hash === link.getAttribute('href')) window.dispatchEvent(new HashChangeEvent('hashchange'));
    location.hash = link.getAttribute('href');
  });
  await look();
}
