// Numbers of curves: which points are drawn, how they are smoothed, and the range that fits them.
'use strict';
globalThis.normmon = {};
(() => {
  /** Return numbers as short text. */
  const short = (value, digits = 3) => {
    if (value === null || value === undefined) return '–';
    if (!Number.isFinite(value)) return String(value);
    const size = Math.abs(value);
    if (size === 0) return '0';
    if (size >= 1e6 || size < 1e-3) return value.toExponential(digits - 1).replace(/\.?0+e/, 'e').replace('e+', 'e');
    if (size >= 1000) return String(Math.round(value));
    return String(Number(value.toPrecision(digits)));
  };

  /** Return seconds as text, with the words for second, minute, hour and day: 45 s, 12 min, 3 h 5 min, 2 d 4 h. */
  const duration = (seconds, [s, min, h, d]) => {
    if (seconds < 120) return `${Math.round(seconds)} ${s}`;
    const minutes = Math.round(seconds / 60), hours = Math.round(seconds / 3600);
    if (minutes < 120) return `${minutes} ${min}`;
    if (hours < 48) return `${Math.floor(minutes / 60)} ${h} ${minutes % 60} ${min}`;
    return `${Math.floor(hours / 24)} ${d} ${hours % 24} ${h}`;
  };

  /** Return the points of a metric of a run along an axis ('iterations', 'steps' or 'times'), or null. */
  const curve = (run, metric, along) => {
    const series = run.series[metric];
    if (!series) return null;
    const [axis, y, low, high, odd] = series;
    const x = run.axes[axis][along];
    return x ? { x, y, low, high, odd } : null;
  };

  /** Return the exponential mean of values, without the pull towards its beginning; null stays null. */
  const smooth = (values, weight) => {
    if (!weight) return values;
    let sum = 0, total = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return value;
      sum = weight * sum + (1 - weight) * value;
      total = weight * total + (1 - weight);
      return sum / total;
    });
  };

  /** Return the value of a curve at x by straight lines between its points; null outside of it. */
  const valueAt = (points, x) => {
    const { x: xs, y } = points;
    let low = 0, high = xs.length - 1;
    if (high < 0 || x < xs[0] || x > xs[high]) return null;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= x) low = middle; else high = middle; }
    if (xs[high] === x) return y[high];
    if (xs[low] === x || high === low) return y[low];
    if (y[low] === null || y[high] === null) return null;
    return y[low] + (y[high] - y[low]) * (x - xs[low]) / (xs[high] - xs[low]);
  };

  /** Return the mean of several curves where all of them are, with a band of one standard deviation. */
  const meanOf = (several) => {
    if (several.length === 1) return several[0];
    const longest = several.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const points = longest.x.map((x) => {
      const values = several.map((one) => valueAt(one, x)).filter((value) => value !== null);
      if (values.length < several.length) return [null, null, null];
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const spread = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1));
      return [mean, mean - spread, mean + spread];
    });
    return { x: longest.x, y: points.map((p) => p[0]), low: points.map((p) => p[1]), high: points.map((p) => p[2]), odd: [] };
  };

  /**
   * Return the range that shows curves: { min, max, above, below }.
   *
   * The values of a training's beginning are cut off where they would flatten the rest; above and below say how far
   * they go, or are null. With a zoom nothing is cut off.
   */
  const rangeOf = (curves, log, zoom) => {
    const to = log ? Math.log10 : (value) => value;
    const from = log ? (value) => 10 ** value : (value) => value;
    const first = [Infinity, -Infinity], rest = [Infinity, -Infinity];
    const add = (range, value) => {
      if (value === null || value === undefined || (log && value <= 0)) return;
      const at = to(value);
      if (at < range[0]) range[0] = at;
      if (at > range[1]) range[1] = at;
    };
    for (const { x, y, low, high, isBand } of curves) {
      const early = zoom || x.length < 20 ? 0 : Math.max(3, Math.ceil(x.length / 20));
      for (let i = 0; i < x.length; i += 1) {
        if (zoom && (x[i] < zoom[0] || x[i] > zoom[1])) continue;
        const range = i < early ? first : rest;
        add(range, y[i]);
        if (isBand && low) { add(range, low[i]); add(range, high[i]); }
      }
    }
    let [min, max] = rest[0] <= rest[1] ? rest : first;
    if (!(min <= max)) return { min: log ? 0.1 : 0, max: 1, above: null, below: null };
    let above = null, below = null;
    const room = Math.max(max - min, log ? 0.3 : 1e-9 * Math.abs(max));
    if (first[1] > max + room) above = from(first[1]); else max = Math.max(max, first[1]);
    if (first[0] < min - room) below = from(first[0]); else min = Math.min(min, first[0]);
    if (max - min <= (log ? 1e-4 : 1e-6 * Math.max(Math.abs(max), Math.abs(min)))) {
      const around = log ? 0.2 : Math.abs(max) * 0.1 || 1;
      return { min: from(min - around), max: from(max + around), above, below };
    }
    if (!log && min > 0 && min < 0.4 * max) min = 0;
    const pad = (max - min) * 0.06;
    return { min: from(min === 0 && !log ? 0 : min - pad), max: from(max + pad), above, below };
  };

  /** Return whether a curve is one and the same value all the time. */
  const isFlat = ({ y, odd }) => {
    const values = y.filter((value) => value !== null);
    if (odd.length || values.length < 3) return false;
    return values.every((value) => Math.abs(value - values[0]) <= 1e-9 * Math.abs(values[0]));
  };

  /** Return text that was compressed by gzip and written in base64, parsed as JSON. */
  const unpack = async (packed) => {
    const raw = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
  };

  /** Return a new element; attributes that are functions are listeners, and texts among the children only texts. */
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === 'function') made.addEventListener(key, value);
      else if (value === true) made.setAttribute(key, '');
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  };

  Object.assign(normmon, { short, duration, curve, smooth, valueAt, meanOf, rangeOf, isFlat, unpack, element });
})();
