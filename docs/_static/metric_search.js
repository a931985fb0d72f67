/* Metrics in the search results, a field above the metric reference, and tables that a phone can show. */
(function () {
  'use strict'

  const root = document.documentElement.dataset.content_root || ''

  function find (query) {
    const text = query.trim().toLowerCase()
    if (!text) return []
    const words = text.split(/[\s*]+/).filter(Boolean)
    const whole = window.METRICS.filter(metric => new RegExp('^' + metric.expression + '$').test(query.trim()))
    const parts = window.METRICS.filter(metric =>
      !whole.includes(metric) && words.every(word => metric.name.toLowerCase().includes(word)))
    return whole.concat(parts)
  }

  function element (tag, text, attributes) {
    const made = Object.assign(document.createElement(tag), attributes || {})
    made.textContent = text
    return made
  }

  function show (query, list) {
    list.replaceChildren(...find(query).slice(0, 20).map(metric => {
      const item = element('li', '')
      const link = element('a', '', { href: root + 'metrics.html#metric=' + encodeURIComponent(metric.name) })
      link.append(element('code', metric.name))
      item.append(link, ': ' + metric.definition.replaceAll('`', ''))
      if (metric.bad) item.append(element('p', 'A bad value means: ' + metric.bad.replaceAll('`', '')))
      return item
    }))
  }

  function onSearchPage () {
    const results = document.getElementById('search-results')
    const query = new URLSearchParams(window.location.search).get('q')
    if (!results || !query || !find(query).length) return
    const list = element('ul', '', { id: 'metric-results' })
    show(query, list)
    results.before(element('h2', 'Metrics'), list)
  }

  function onMetricPage () {
    const heading = document.querySelector('#metric-reference > h1')
    if (!heading) return
    const field = element('input', '', { type: 'search', id: 'metric-field', placeholder: 'a name as in TensorBoard' })
    const list = element('ul', '', { id: 'metric-found' })
    field.addEventListener('input', () => show(field.value, list))
    heading.after(field, list)
    goToMetric()
    window.addEventListener('hashchange', goToMetric)
  }

  function goToMetric () {
    const name = decodeURIComponent(window.location.hash.replace(/^#metric=/, ''))
    for (const row of document.querySelectorAll('tr')) {
      const code = row.querySelector('td code')
      const found = Boolean(code) && code.textContent === name
      row.classList.toggle('metric-target', found)
      if (found) row.scrollIntoView({ block: 'center' })
    }
  }

  function labelCells () {
    for (const table of document.querySelectorAll('table.docutils')) {
      const titles = [...table.querySelectorAll('thead th')].map(cell => cell.textContent)
      for (const row of table.querySelectorAll('tbody tr')) {
        [...row.children].forEach((cell, index) => { cell.dataset.title = titles[index] || '' })
      }
    }
  }

  window.addEventListener('DOMContentLoaded', () => { labelCells(); onSearchPage(); onMetricPage() })
})()
