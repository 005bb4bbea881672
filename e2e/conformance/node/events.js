'use strict';
// What reads telemetry, with the stock client for event hubs, at the event-hub-compatible
// endpoint of iothub. Where that is it finds out as the samples for IoT Hub do: by a
// redirect.

const crypto = require('crypto');
const fs = require('fs');
const { Message } = require('azure-iot-common');
const { Client, Mqtt } = { ...require('azure-iot-device'), ...require('azure-iot-device-mqtt') };
const { EventHubConsumerClient, earliestEventPosition, latestEventPosition } = require('@azure/event-hubs');
const { Connection, ReceiverEvents } = require('rhea-promise');
const { run, ask, within, expect, same, sleep } = require('./scenario');

// fields of a connection string.
function fields(text) {
  return Object.fromEntries(text.split(';').filter(Boolean).map((f) => [f.slice(0, f.indexOf('=')), f.slice(f.indexOf('=') + 1)]));
}

function token(resource, name, key) {
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  const sr = encodeURIComponent(resource);
  const signature = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(`${sr}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${name}`;
}

// redirected asks the hub where events are read.
async function redirected(login) {
  const { HostName: host, SharedAccessKeyName: name, SharedAccessKey: key } = login;
  const connection = new Connection({
    transport: 'tls', host, hostname: host, port: 5671, reconnect: false,
    username: `${name}@sas.root.${host.split('.')[0]}`, password: token(`${host}/messages/events`, name, key),
  });
  await connection.open();
  try {
    const error = await new Promise((resolve, reject) => {
      connection.createReceiver({
        source: { address: `amqps://${host}/messages/events/$management` }, credit_window: 0,
        onError: (context) => resolve(context.receiver.error),
      }).then((r) => r.on(ReceiverEvents.receiverError, (context) => resolve(context.receiver.error)), (err) => (err.condition ? resolve(err) : reject(err)));
    });
    same(error.condition, 'amqp:link:redirect', 'error');
    const entity = error.info.address.match(/:\d+\/(.*)\/\$management/i)[1];
    return `Endpoint=sb://${error.info.hostname}/;EntityPath=${entity};SharedAccessKeyName=${name};SharedAccessKey=${key}`;
  } finally {
    await connection.close();
  }
}

class Scenario {
  constructor(config) {
    this.config = config;
    this.run = crypto.randomUUID();
    this.options = config.transport === 'amqp-ws' ? { webSocketOptions: { webSocket: require('ws') } } : {};
    this.sent = [];
    this.subscriptions = [];
  }

  consumer(connection = this.connection, more = {}) {
    return new EventHubConsumerClient('$Default', connection, { ...this.options, ...more });
  }

  // send has the device send some messages, in order.
  async send(count) {
    const list = [];
    for (let i = 0; i < count; i += 1) {
      const message = new Message(JSON.stringify({ run: this.run, number: this.sent.length }));
      message.messageId = `${this.run}-${this.sent.length}`;
      message.contentType = 'application/json';
      message.contentEncoding = 'utf-8';
      message.properties.add('run', this.run);
      await this.device.sendEvent(message);
      this.sent.push(message.messageId);
      list.push(message.messageId);
    }
    return list;
  }

  // watch subscribes and gathers events of this run; partition undefined: all.
  watch({ client = this.client, partition, position, ...options }) {
    const w = { events: [], errors: [], wake: () => {}, closed: false };
    const handlers = {
      processEvents: async (events) => {
        w.events.push(...events.filter((e) => e.properties && e.properties.run === this.run));
        w.wake();
      },
      processError: async (err) => {
        w.errors.push(err);
        w.wake();
      },
    };
    const all = { startPosition: position, maxBatchSize: 10, maxWaitTimeInSeconds: 1, ...options };
    const subscription = partition === undefined ? client.subscribe(handlers, all) : client.subscribe(partition, handlers, all);
    w.close = () => {
      w.closed = true;
      return subscription.close();
    };
    this.subscriptions.push(w);
    return w;
  }

  // until waits until check of a watch returns something.
  async until(w, what, check) {
    await within(40000, what, new Promise((resolve) => {
      w.wake = () => check(w) && resolve();
      w.wake();
    }));
  }

  // gather reads until so many events have come, and returns their ids.
  async gather(options, count) {
    const w = this.watch(options);
    try {
      await this.until(w, `${count} events`, () => w.events.length >= count || w.errors.length > 0);
    } finally {
      await w.close();
    }
    expect(w.errors.length === 0, `error while reading: ${w.errors[0] && w.errors[0].message}`);
    return w.events;
  }
}

const ids = (events) => events.map((e) => String(e.messageId));

// read are the features of one reader; the events of 'from the beginning' are those
// that the others begin with.
function reading(s) {
  return {
    async 'from the beginning'() {
      const sent = await s.send(30);
      const events = await s.gather({ position: earliestEventPosition }, 30);
      same(ids(events), sent, 'events');
      s.events = events;
      const found = await Promise.all(s.partitions.map((p) => s.client.getPartitionProperties(p)));
      const mine = found.filter((p) => p.lastEnqueuedSequenceNumber === events[29].sequenceNumber && p.lastEnqueuedOffset === String(events[29].offset));
      same(mine.length, 1, 'partitions that end with the last event');
      s.partition = mine[0].partitionId;
    },
    async 'what an event says'() {
      const e = s.events[3];
      same(e.body, { run: s.run, number: 3 }, 'body');
      same([e.contentType, String(e.systemProperties.contentEncoding || 'utf-8')], ['application/json', 'utf-8'], 'content');
      const system = e.systemProperties;
      same([system['iothub-connection-device-id'], system['iothub-message-source']], [s.config.device, 'Telemetry'], 'annotations');
      same(JSON.parse(system['iothub-connection-auth-method']).scope, 'device', 'scope');
      expect(system['iothub-connection-auth-generation-id'], 'no generation');
      expect(Math.abs(Date.now() - e.enqueuedTimeUtc.getTime()) < 300000, `enqueued at ${e.enqueuedTimeUtc}`);
      expect(Math.abs(Date.now() - new Date(system['iothub-enqueuedtime']).getTime()) < 300000, 'enqueued time of the hub');
    },
    async 'from an offset'() {
      const { partition } = s;
      const events = await s.gather({ partition, position: { offset: String(s.events[9].offset) } }, 20);
      same(ids(events), s.sent.slice(10), 'events behind it');
      const with9 = await s.gather({ partition, position: { offset: String(s.events[9].offset), isInclusive: true } }, 21);
      same(ids(with9), s.sent.slice(9), 'events from it');
    },
    async 'from a sequence number'() {
      const { partition } = s;
      const events = await s.gather({ partition, position: { sequenceNumber: s.events[19].sequenceNumber } }, 10);
      same(ids(events), s.sent.slice(20), 'events behind it');
      const with19 = await s.gather({ partition, position: { sequenceNumber: s.events[19].sequenceNumber, isInclusive: true } }, 11);
      same(ids(with19), s.sent.slice(19), 'events from it');
    },
    async 'from a time'() {
      await sleep(20);
      const at = Date.now();
      await sleep(20);
      const later = await s.send(3);
      same(ids(await s.gather({ partition: s.partition, position: { enqueuedOn: at } }, 3)), later, 'events after it');
    },
    async 'only what comes'() {
      const w = s.watch({ partition: s.partition, position: latestEventPosition });
      await sleep(3000); // the SDK does not tell when it reads
      const later = await s.send(5);
      await s.until(w, '5 events', () => w.events.length >= 5);
      await w.close();
      same(ids(w.events), later, 'events');
    },
    async 'beyond the end refused'() {
      const w = s.watch({ partition: s.partition, position: { sequenceNumber: 1000000 } });
      await s.until(w, 'error', () => w.errors.length > 0);
      await w.close();
      expect(/out-of-range|OutOfRange|ends at/i.test(`${w.errors[0].code} ${w.errors[0].message}`), `error ${w.errors[0].code}: ${w.errors[0].message}`);
    },
  };
}

function sharing(s) {
  return {
    async 'owner level: the higher wins'() {
      const options = { partition: s.partition, position: earliestEventPosition };
      const low = s.watch({ ...options, ownerLevel: 1 });
      await s.until(low, 'events', () => low.events.length > 0);
      const other = s.consumer();
      const high = s.watch({ ...options, client: other, ownerLevel: 2 });
      await s.until(high, 'events', () => high.events.length > 0);
      await s.until(low, 'the lower to lose', () => low.errors.length > 0);
      same(low.errors[0].code, 'ReceiverDisconnectedError', 'error');
      await low.close();
      await high.close();
      await other.close();
    },
    async 'two readers at once see all'() {
      const other = s.consumer();
      const options = { partition: s.partition, position: earliestEventPosition };
      const [a, b] = await Promise.all([s.gather(options, s.sent.length), s.gather({ ...options, client: other }, s.sent.length)]);
      await other.close();
      same(ids(a), s.sent, 'events of the first');
      same(ids(b), s.sent, 'events of the second');
    },
    async 'goes on after the hub was killed'() {
      const w = s.watch({ partition: s.partition, position: { sequenceNumber: s.events[0].sequenceNumber } });
      await s.until(w, 'events', () => w.events.length >= s.sent.length - 1);
      await ask('restart');
      const later = await s.send(5);
      await s.until(w, 'events after it', () => ids(w.events).includes(later[4]));
      await w.close();
      same(ids(w.events).slice(-5), later, 'events after it');
      same(new Set(ids(w.events)).size, w.events.length, 'events without those that came twice');
    },
  };
}

run(async (config) => {
  const s = new Scenario(config);
  const features = {
    async open() {
      s.connection = await redirected(fields(config.service));
      s.client = s.consumer();
      s.device = Client.fromConnectionString(config.connection, Mqtt);
      await s.device.setOptions({ ca: fs.readFileSync(config.ca, 'utf8') });
      await s.device.open();
    },
    async 'event hub properties'() {
      const p = await s.client.getEventHubProperties();
      same([p.name, p.partitionIds], [fields(s.connection).EntityPath, ['0', '1', '2', '3']], 'properties');
      expect(p.createdOn.getTime() <= Date.now() && Date.now() - p.createdOn.getTime() < 86400000, `created on ${p.createdOn}`);
      s.partitions = p.partitionIds;
    },
    async 'partition properties'() {
      const p = await s.client.getPartitionProperties('1');
      same([p.partitionId, p.eventHubName], ['1', fields(s.connection).EntityPath], 'properties');
      expect(p.beginningSequenceNumber >= 0 && p.lastEnqueuedSequenceNumber >= -1, 'sequence numbers');
      const err = await s.client.getPartitionProperties('99').then(() => undefined, (e) => e);
      expect(err, 'partition 99 was described');
    },
    async 'bad key refused'() {
      const other = s.consumer(s.connection.replace(/SharedAccessKey=[^;]+/, `SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`), { retryOptions: { maxRetries: 0 } });
      const err = await other.getEventHubProperties().then(() => undefined, (e) => e);
      await other.close();
      expect(err, 'a wrong key was taken');
      same(err.code, 'UnauthorizedError', 'error');
    },
    async close() {
      await s.client.close();
      await s.device.close();
    },
    ...reading(s),
    ...sharing(s),
  };
  return { features, finish: () => Promise.all(s.subscriptions.filter((w) => !w.closed).map((w) => w.close())) };
});
