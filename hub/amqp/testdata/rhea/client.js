// Runs a rhea client against the server of conformance_test.go at the host and
// port given, and ends with an error where the server does not behave.
'use strict';
const assert = require('assert');
const rhea = require('rhea');

const [host, port] = process.argv[2].split(':');

function once(emitter, name) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no ' + name)), 10000);
    emitter.once(name, (context) => {
      clearTimeout(timer);
      resolve(context);
    });
  });
}

async function connect(options) {
  const connection = rhea.create_container().connect({ host, port, reconnect: false, idle_time_out: 2000, ...options });
  await once(connection, 'connection_open');
  return connection;
}

async function closed(connection) {
  connection.close();
  await once(connection, 'connection_close');
}

// Sends when there is credit, and counts outcomes.
function sendAll(connection, messages, options) {
  return new Promise((resolve, reject) => {
    const sender = connection.open_sender({ target: { address: 'target' }, ...options });
    const outcomes = { accepted: 0, rejected: 0, released: 0 };
    let sent = 0;
    let told = 0;
    const timer = setTimeout(() => reject(new Error('sent ' + sent + ', told ' + told)), 10000);
    const count = (outcome) => () => {
      outcomes[outcome]++;
      if (++told === messages.length) {
        clearTimeout(timer);
        sender.close();
        resolve(outcomes);
      }
    };
    sender.on('accepted', count('accepted'));
    sender.on('rejected', count('rejected'));
    sender.on('released', count('released'));
    sender.on('sendable', () => {
      // rhea takes more than it has credit for, and drops it when it closes.
      let room = sender.credit;
      while (sent < messages.length && room-- > 0 && sender.sendable()) {
        const delivery = sender.send(messages[sent++]);
        if (delivery.settled) count('accepted')();
      }
    });
  });
}

async function sending(connection) {
  const messages = [];
  for (let i = 0; i < 1000; i++) messages.push({ message_id: String(i), body: rhea.message.data_section(Buffer.from('m' + i)) });
  messages.push({ body: rhea.message.data_section(Buffer.alloc(1000000)) });
  messages.push({
    message_id: rhea.string_to_uuid('12345678-1234-1234-1234-123456789abc'), correlation_id: rhea.types.wrap_ulong(7),
    content_type: 'application/json', absolute_expiry_time: new Date(), user_id: Buffer.from('me'),
    application_properties: { status: rhea.types.wrap_int(200), text: 't'.repeat(300), yes: true, number: 1.5 },
    message_annotations: { 'x-opt-a': 'a', 'x-opt-n': rhea.types.wrap_long(7) }, body: { nested: [1, { deep: 'yes' }] },
  });
  messages.push({ subject: 'reject', body: 'x' }, { subject: 'release', body: 'x' });
  const outcomes = await sendAll(connection, messages, {});
  assert.deepStrictEqual(outcomes, { accepted: 1002, rejected: 1, released: 1 });
  const settled = new Array(100).fill({ body: 'settled' });
  await sendAll(connection, settled, { snd_settle_mode: 1 });
}

async function receiving(connection, mode) {
  const receiver = connection.open_receiver({ source: { address: 'source', filter: { f: rhea.types.wrap_described('x', 'f') } }, rcv_settle_mode: mode, credit_window: 0, autoaccept: false });
  const open = await once(receiver, 'receiver_open');
  assert(open.receiver.source.filter, 'filter');
  let count = 0;
  let settled = 0;
  const done = new Promise((resolve) => {
    receiver.on('message', (context) => {
      assert.strictEqual(context.message.body.content.toString(), 'm' + count);
      assert.strictEqual(context.message.message_annotations['x-opt-sequence-number'], count);
      const d = context.delivery;
      switch (count++ % 4) {
        case 0: d.update(mode === 0, rhea.message.accepted().described()); break;
        case 1: d.update(mode === 0, rhea.message.rejected({ condition: 'x:y', description: 'z' }).described()); break;
        case 2: d.update(mode === 0, rhea.message.modified({ delivery_failed: true }).described()); break;
        default: d.update(mode === 0, rhea.message.released().described());
      }
      // One at a time: rhea 3.0.5 writes two outcomes that it gathers as one
      // range with the outcome of the first.
      if (count < 100) setImmediate(() => receiver.add_credit(1));
      else if (mode === 0) setImmediate(resolve);
    });
    receiver.on('settled', () => {
      if (++settled === 100) resolve();
    });
  });
  receiver.add_credit(1);
  await done;
  receiver.close();
  await once(receiver, 'receiver_close');
}

async function draining(connection) {
  const receiver = connection.open_receiver({ source: 'drain', credit_window: 0 });
  let count = 0;
  receiver.on('message', () => { count++; });
  await once(receiver, 'receiver_open');
  receiver.drain_credit();
  receiver.add_credit(20);
  await once(receiver, 'receiver_drained');
  assert.strictEqual(receiver.credit, 0);
  assert.strictEqual(count, 5);
  receiver.close();
}

async function refused(connection) {
  const sender = connection.open_sender('nowhere');
  const context = await once(sender, 'sender_error');
  assert.strictEqual(context.sender.error.condition, 'amqp:not-found');
  const receiver = connection.open_receiver('nowhere');
  const other = await once(receiver, 'receiver_error');
  assert.strictEqual(other.receiver.error.condition, 'amqp:not-found');
}

async function main() {
  for (const options of [{}, { username: 'me' }, { username: 'me', password: 'secret' }]) {
    const connection = await connect(options);
    await sending(connection);
    await receiving(connection, 0);
    await receiving(connection, 1);
    await draining(connection);
    await refused(connection);
    await new Promise((resolve) => setTimeout(resolve, 3000)); // heartbeats
    assert(connection.is_open());
    await closed(connection);
  }
}

main().then(() => console.log('ok'), (err) => {
  console.error(err);
  process.exit(1);
});
