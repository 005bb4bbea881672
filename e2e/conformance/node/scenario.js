'use strict';
// What the scenarios share: they get one line of JSON on standard input that says
// what to do, and write one line of JSON for each feature: whether it held, and what
// must have arrived in the cloud. They may ask the harness for something ("ask") and
// go on when it has answered with a line. What else they print is for people.

const readline = require('readline');

const stepLimit = 45000; // ms for one feature

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function write(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

async function readLine() {
  const { value, done } = await lines.next();
  if (done) {
    throw new Error('standard input has ended');
  }
  return JSON.parse(value);
}

// ask has the harness do something, as "restart": kill the hub and start it anew.
async function ask(what) {
  write({ ask: what });
  const answer = await readLine();
  if (!answer.ok) {
    throw new Error(`${what}: ${answer.error}`);
  }
}

function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// happens is a promise of the first event for which take returns something.
function happens(emitter, event, take = (...args) => args) {
  return new Promise((resolve) => {
    const listener = (...args) => {
      const result = take(...args);
      if (result !== undefined && result !== false) {
        emitter.removeListener(event, listener);
        resolve(result);
      }
    };
    emitter.on(event, listener);
  });
}

function expect(condition, what) {
  if (!condition) {
    throw new Error(what);
  }
}

function same(got, want, what) {
  const g = JSON.stringify(got);
  const w = JSON.stringify(want);
  expect(g === w, `${what}: got ${g}, want ${w}`);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// run tries the features that the harness asked for, in their order.
async function run(prepare) {
  const config = await readLine();
  const { features, finish } = await prepare(config);
  for (const feature of config.features) {
    const began = Date.now();
    try {
      expect(features[feature], 'the scenario does not know this feature');
      const result = (await within(stepLimit, feature, features[feature]())) || {};
      write({ feature, ok: true, ms: Date.now() - began, ...result });
    } catch (err) {
      write({ feature, ok: false, ms: Date.now() - began, error: String((err && err.message) || err) });
      process.stderr.write(`${feature}: ${(err && err.stack) || err}\n`);
      if (feature === 'open') {
        break; // the rest would only wait for its time limits
      }
    }
  }
  await within(10000, 'finish', finish()).catch((err) => process.stderr.write(`finish: ${err.stack}\n`));
  process.exit(0);
}

process.on('unhandledRejection', (err) => process.stderr.write(`unhandled rejection: ${(err && err.stack) || err}\n`));
process.on('uncaughtException', (err) => process.stderr.write(`uncaught exception: ${(err && err.stack) || err}\n`));

module.exports = { run, ask, within, happens, expect, same, sleep };
