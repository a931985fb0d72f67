import { render } from './live.js';

render();
