'use strict';
// A device or module made with the stock device SDK, against either hub. The service
// side, which gives it methods, desired properties and messages, is the stock
// service SDK against iothub.

const crypto = require('crypto');
const fs = require('fs');
const { Message, NoRetry } = require('azure-iot-common');
const { Client, ModuleClient } = require('azure-iot-device');
const service = require('azure-iothub');
const { run, ask, within, happens, expect, same, sleep } = require('./scenario');

const transports = {
  mqtt: () => require('azure-iot-device-mqtt').Mqtt,
  'mqtt-ws': () => require('azure-iot-device-mqtt').MqttWs,
  amqp: () => require('azure-iot-device-amqp').Amqp,
  'amqp-ws': () => require('azure-iot-device-amqp').AmqpWs,
  http: () => require('azure-iot-device-http').Http,
};

// Scenario is the state that the features share.
class Scenario {
  constructor(config) {
    this.config = config;
    this.ca = fs.readFileSync(config.ca, 'utf8');
    this.prefix = crypto.randomUUID();
    this.number = 0;
    this.http = config.transport === 'http';
    this.color = this.http ? 'blue & green' : 'blå & grön';
    this.Transport = transports[config.transport]();
    this.registry = service.Registry.fromConnectionString(config.service);
    this.service = service.Client.fromConnectionString(config.service);
    this.service.setRetryPolicy(new NoRetry());
  }

  // make returns a client that is not open yet.
  async make(connection, options = {}) {
    const kind = this.config.module ? ModuleClient : Client;
    const client = kind.fromConnectionString(connection, this.Transport);
    client.on('error', (err) => process.stderr.write(`client error: ${err.message}\n`));
    client.on('disconnect', (err) => process.stderr.write(`client disconnected: ${err && err.message}\n`));
    await client.setOptions(this.options(options));
    return client;
  }

  options(more) {
    // Over HTTP the SDK finishes setOptions only if it is told how to receive.
    const receive = this.http ? { http: { receivePolicy: { interval: 1 } } } : {};
    return { ca: this.ca, ...receive, ...more };
  }

  // message is one that can be told from all others, and what must arrive of it.
  message(extra = {}) {
    this.number += 1;
    const id = `${this.prefix}-${this.number}`;
    const message = new Message(JSON.stringify({ number: this.number, text: 'äöü €' }));
    message.messageId = id;
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('case', id);
    Object.entries(extra).forEach(([key, value]) => message.properties.add(key, value));
    const arrives = {
      case: id, origin: this.config.device, module: this.config.module || '',
      application: { case: id, ...extra },
      system: { message_id: id, content_type: 'application/json', content_encoding: 'utf-8' },
      payload: { number: this.number, text: 'äöü €' },
    };
    return { message, arrives };
  }

  send(message, output) {
    return output ? this.client.sendOutputEvent(output, message) : this.client.sendEvent(message);
  }

  // sendOne sends to where the routes of either hub bring it to the cloud.
  async sendOne(extra) {
    const { message, arrives } = this.message(extra);
    if (this.config.output) {
      arrives.annotations = { 'iothub-outputname': this.config.output };
    }
    await this.send(message, this.config.output);
    return arrives;
  }

  serviceTwin() {
    return this.config.module
      ? this.registry.getModuleTwin(this.config.device, this.config.module)
      : this.registry.getTwin(this.config.device);
  }

  // invoke calls a method by way of iothub.
  async invoke(name, payload) {
    const params = { methodName: name, payload, responseTimeoutInSeconds: 20 };
    const result = await (this.config.module
      ? this.service.invokeDeviceMethod(this.config.device, this.config.module, params)
      : this.service.invokeDeviceMethod(this.config.device, params));
    return result.result !== undefined ? result.result : result;
  }

  // setDesired changes the desired properties and waits until the client was told.
  async setDesired(key) {
    const value = crypto.randomUUID();
    const told = happens(this.twin, 'properties.desired', (delta) => delta[key] === value && delta);
    const twin = await this.serviceTwin();
    const got = twin.responseBody || twin;
    await got.update({ properties: { desired: { [key]: value } } });
    const delta = await within(25000, 'desired properties', told);
    expect(Number.isInteger(delta.$version), 'the patch has no $version');
  }

  async sendToDevice(text) {
    const id = crypto.randomUUID();
    const message = new Message(text);
    message.messageId = id;
    message.ack = 'full';
    message.properties.add('color', this.color);
    await this.service.open();
    await this.service.send(this.config.device, message);
    return id;
  }

  // listen begins to receive messages from the cloud. The SDK does not tell when it has
  // subscribed.
  async listen() {
    this.inbox = [];
    this.client.on('message', (m) => this.inbox.push(m));
    await sleep(1000);
  }

  // receive waits for a message from the cloud, and takes it out of the inbox.
  async receive(id, limit = 25000) {
    for (const end = Date.now() + limit; Date.now() < end; await sleep(20)) {
      const i = this.inbox.findIndex((m) => m.messageId === id);
      if (i >= 0) {
        return this.inbox.splice(i, 1)[0];
      }
    }
    throw new Error(`no message from the cloud within ${limit / 1000} s`);
  }
}

function features(s) {
  const { config } = s;
  return {
    async open() {
      s.client = await s.make(config.connection);
      await s.client.open();
    },

    async telemetry() {
      const arrives = [];
      for (let i = 0; i < 3; i += 1) {
        // Over HTTP properties are headers: no blanks in names, no more than Latin 1 in values.
        const odd = s.http ? {} : { 'a b': 'c&d=e', umlaut: 'äöü €', empty: '' };
        arrives.push(await s.sendOne({ plus: '1+1', percent: '100%', ...odd }));
      }
      return { arrives };
    },

    async 'telemetry of 200 KiB'() {
      const { message, arrives } = s.message();
      message.data = Buffer.from(JSON.stringify('x'.repeat(200 * 1024)));
      delete arrives.payload;
      await s.send(message, config.output);
      return { arrives: [arrives] };
    },

    async 'telemetry in order, 200 in flight'() {
      const arrives = [];
      const sends = [];
      for (let i = 0; i < 200; i += 1) {
        const one = s.message();
        arrives.push(one.arrives);
        sends.push(s.send(one.message, config.output));
      }
      await Promise.all(sends);
      return { arrives, ordered: true };
    },

    async batch() {
      const list = [s.message({ batch: 'yes' }), s.message({ batch: 'yes' }), s.message({ batch: 'yes' })];
      await s.client.sendEventBatch(list.map((one) => one.message));
      // The SDK sends bodies and application properties and no more.
      return { arrives: list.map(({ arrives, message }) => ({ ...arrives, system: {}, payload: undefined, text: message.getData().toString() })) };
    },

    async 'twin get'() {
      s.twin = await s.client.getTwin();
      expect(Number.isInteger(s.twin.properties.desired.$version), 'desired has no $version');
      expect(Number.isInteger(s.twin.properties.reported.$version), 'reported has no $version');
    },

    async 'twin reported'() {
      const value = crypto.randomUUID();
      await new Promise((resolve, reject) => {
        s.twin.properties.reported.update({ conformance: { value, gone: null } }, (err) => (err ? reject(err) : resolve()));
      });
      for (;;) { // edgehub reports upstream some time later
        const twin = await s.serviceTwin();
        const { reported } = (twin.responseBody || twin).properties;
        if (reported.conformance && reported.conformance.value === value) {
          expect(!('gone' in reported.conformance), 'null did not delete');
          return;
        }
        await sleep(250);
      }
    },

    async 'twin reported, refused'() {
      const err = await new Promise((resolve) => {
        s.twin.properties.reported.update({ tooLong: 'x'.repeat(40000) }, resolve);
      });
      expect(err, 'a patch of 40 kB was taken');
    },

    async 'twin desired'() {
      s.twin.on('properties.desired', () => {});
      await sleep(500); // the SDK does not tell when it has subscribed
      await s.setDesired('first');
      await s.setDesired('second');
    },

    async method() {
      const on = config.module ? 'onMethod' : 'onDeviceMethod';
      s.client[on]('echo', (request, response) => {
        response.send(201, { echo: request.payload }, (err) => err && process.stderr.write(`answer: ${err.message}\n`));
      });
      await sleep(1000); // the SDK does not tell when it has subscribed
      const { status, payload } = await s.invoke('echo', { question: 42, text: 'äöü' });
      same({ status, payload }, { status: 201, payload: { echo: { question: 42, text: 'äöü' } } }, 'answer');
    },

    async 'method, 20 at once'() {
      const all = await Promise.all(Array.from({ length: 20 }, (_, i) => s.invoke('echo', i)));
      all.forEach(({ status, payload }, i) => same({ status, payload }, { status: 201, payload: { echo: i } }, `answer ${i}`));
    },

    async 'output to input'() {
      const { message, arrives } = s.message({ 'a b': 'c&d' });
      s.client.on('inputMessage', () => {}); // without a listener the SDK detaches, and cannot settle
      const got = happens(s.client, 'inputMessage', (input, m) => m.messageId === message.messageId && { input, m });
      await sleep(1000); // the SDK does not tell when it has subscribed
      await s.client.sendOutputEvent('loop', message);
      const { input, m } = await within(20000, 'input', got);
      same(input, 'in', 'input');
      same(JSON.parse(m.getData().toString()), arrives.payload, 'body');
      const names = Object.fromEntries(m.properties.propertyList.map(({ key, value }) => [key, value]));
      same(names['a b'], 'c&d', 'property');
      await s.client.complete(m);
    },

    async 'output batch'() {
      const list = [s.message(), s.message()];
      await s.client.sendOutputEventBatch(config.output, list.map((one) => one.message));
      return { arrives: list.map((one) => one.arrives) };
    },

    async 'method of a module by way of edgehub'() {
      const { status, payload } = await s.client.invokeMethod(config.device, config.module, { methodName: 'echo', payload: 'self', responseTimeoutInSeconds: 20 });
      same({ status, payload }, { status: 201, payload: { echo: 'self' } }, 'answer');
    },

    async 'C2D complete'() {
      await s.listen();
      const id = await s.sendToDevice('go');
      const message = await s.receive(id);
      same(message.getData().toString(), 'go', 'body');
      // Over HTTP the SDK leaves the prefix of the header.
      const color = message.properties.propertyList.find(({ key }) => key === 'color' || key === 'iothub-app-color');
      same(color && color.value, s.color, 'property');
      await s.client.complete(message);
    },

    async 'C2D reject'() {
      const id = await s.sendToDevice('no');
      await s.client.reject(await s.receive(id));
      const again = await s.receive(id, 2000).catch(() => undefined);
      expect(!again, 'a rejected message came again');
    },

    async 'C2D abandon'() {
      const id = await s.sendToDevice('later');
      await s.client.abandon(await s.receive(id));
      await s.client.complete(await s.receive(id));
    },

    async 'reconnect after the hub was killed'() {
      const before = await s.sendOne({ when: 'before' });
      await ask('restart');
      const after = await s.sendOne({ when: 'after' });
      return { arrives: [before, after] };
    },

    async 'method and desired after it'() {
      for (let i = 0; ; i += 1) { // the SDK subscribes again, and does not tell when
        try {
          const { status } = await s.invoke('echo', 1);
          same(status, 201, 'status');
          break;
        } catch (err) {
          expect(i < 20, `method: ${err.message}`);
          await sleep(500);
        }
      }
      await s.setDesired('third');
    },

    async 'token renewal under load'() {
      await s.client.close();
      s.client = await s.make(config.connection, { tokenRenewal: { tokenValidTimeInSeconds: 6, tokenRenewalMarginInSeconds: 4 } });
      let renewals = 0;
      // The only place where the SDK tells of a new token.
      s.client._transport._authenticationProvider.on('newTokenAvailable', () => { renewals += 1; });
      await s.client.open();
      const arrives = [];
      for (const end = Date.now() + 9000; Date.now() < end;) {
        arrives.push(await s.sendOne());
        await sleep(20);
      }
      expect(renewals >= 2, `${renewals} renewals`);
      return { arrives };
    },

    async 'takeover: the newest wins'() {
      const second = await s.make(config.connection);
      const lost = happens(s.client, 'disconnect', () => true);
      s.client.setRetryPolicy(new NoRetry());
      await second.open();
      const first = s.client;
      s.client = second;
      const arrives = [await s.sendOne()]; // over AMQP only a link makes it a client
      await within(20000, 'end of the older connection', lost);
      await first.close().catch(() => {});
      return { arrives };
    },

    async 'X.509'() {
      const client = Client.fromConnectionString(config.x509.connection, s.Transport);
      await client.setOptions(s.options({ cert: fs.readFileSync(config.x509.cert, 'utf8'), key: fs.readFileSync(config.x509.key, 'utf8') }));
      client.setRetryPolicy(new NoRetry());
      await client.open();
      const { message, arrives } = s.message();
      arrives.origin = config.x509.device;
      arrives.module = '';
      await client.sendEvent(message);
      await client.close();
      return { arrives: [arrives] };
    },

    async 'bad key refused'() {
      const key = crypto.randomBytes(32).toString('base64');
      const client = await s.make(config.connection.replace(/SharedAccessKey=[^;]+/, `SharedAccessKey=${key}`));
      client.setRetryPolicy(new NoRetry());
      const { message } = s.message();
      const err = await client.open().then(() => client.sendEvent(message)).then(() => undefined, (e) => e);
      expect(err, 'a wrong key was taken');
      await client.close().catch(() => {});
      same(err.name, 'UnauthorizedError', 'error');
      return { absent: [message.messageId] };
    },

    async close() {
      await s.client.close();
    },
  };
}

run(async (config) => {
  const s = new Scenario(config);
  return {
    features: features(s),
    async finish() {
      await Promise.allSettled([s.client && s.client.close(), s.service.close()]);
    },
  };
});
