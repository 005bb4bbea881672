'use strict';
// What a back end does, with the stock service SDK, against iothub.

const crypto = require('crypto');
const fs = require('fs');
const { Message, NoRetry } = require('azure-iot-common');
const { Client, Mqtt } = { ...require('azure-iot-device'), ...require('azure-iot-device-mqtt') };
const service = require('azure-iothub');
const { run, within, happens, expect, same, sleep } = require('./scenario');

// body is the answer itself, whichever of its wrappers the SDK has put around it.
const body = (answer) => (answer && (answer.responseBody || answer.result)) || answer;

// refused returns the error of something that must fail.
async function refused(promise, what) {
  const err = await promise.then(() => undefined, (e) => e);
  expect(err, `${what} was taken`);
  return err;
}

function registryFeatures(s) {
  const id = `crud-${crypto.randomUUID()}`;
  const { registry } = s;
  return {
    async 'create a device'() {
      const made = body(await registry.create({ deviceId: id, status: 'enabled' }));
      same(made.deviceId, id, 'device id');
      same(made.authentication.type, 'sas', 'authentication');
      expect(Buffer.from(made.authentication.symmetricKey.primaryKey, 'base64').length >= 16, 'no key was made');
      const err = await refused(registry.create({ deviceId: id }), 'a second device of the same id');
      same(err.name, 'DeviceAlreadyExistsError', 'error');
    },
    async 'read a device'() {
      same(body(await registry.get(id)).deviceId, id, 'device id');
      same((await refused(registry.get(`${id}-none`), 'a device that is not there')).name, 'DeviceNotFoundError', 'error');
    },
    async 'list devices'() {
      expect(body(await registry.list()).some((d) => d.deviceId === id), 'the new device is not listed');
    },
    async 'update a device'() {
      const device = body(await registry.get(id));
      device.status = 'disabled';
      device.statusReason = 'resting';
      const got = body(await registry.update(device));
      same([got.status, got.statusReason], ['disabled', 'resting'], 'status');
    },
    async 'modules of a device'() {
      same(body(await registry.addModule({ deviceId: id, moduleId: 'one' })).moduleId, 'one', 'module id');
      same(body(await registry.getModulesOnDevice(id)).map((m) => m.moduleId), ['one'], 'modules');
      await registry.removeModule(id, 'one');
      same(body(await registry.getModulesOnDevice(id)), [], 'modules');
    },
    async 'twin: tags, desired, etag'() {
      const twin = body(await registry.getTwin(id));
      const { etag } = twin; // update changes it
      const next = body(await twin.update({ tags: { place: { floor: 3 } }, properties: { desired: { speed: 7 } } }));
      same([next.tags.place.floor, next.properties.desired.speed], [3, 7], 'twin');
      const err = await refused(registry.updateTwin(id, { tags: { place: null } }, etag), 'an old etag');
      same(err.name, 'InvalidEtagError', 'error');
      const after = body(await registry.updateTwin(id, { tags: { place: null } }, '*'));
      same(after.tags, {}, 'tags');
    },
    async queries() {
      const mark = crypto.randomUUID();
      const ids = [1, 2, 3].map((i) => `query-${i}-${mark}`);
      for (const [i, deviceId] of ids.entries()) {
        await registry.create({ deviceId });
        await registry.updateTwin(deviceId, { tags: { mark, place: { floor: i } } }, '*');
      }
      const where = `WHERE tags.mark = '${mark}'`;
      const query = registry.createQuery(`SELECT * FROM devices ${where} AND tags.place.floor >= 0`, 2);
      const pages = [];
      while (query.hasMoreResults) {
        pages.push(body(await query.nextAsTwin()));
      }
      same(pages.map((page) => page.map((t) => t.deviceId)), [ids.slice(0, 2), ids.slice(2)], 'pages');
      const next = body(await pages[1][0].update({ properties: { desired: { speed: 7 } } })); // they are twins of the SDK
      same([next.properties.desired.speed, next.tags.place.floor], [7, 2], 'twin');
      const ask = async (text) => body(await registry.createQuery(text).next());
      same(await ask(`SELECT deviceId AS id, tags.place.floor FROM devices ${where} AND tags.place.floor IN [1, 2]`),
        [{ floor: 1, id: ids[1] }, { floor: 2, id: ids[2] }], 'columns');
      same(await ask(`SELECT status, COUNT() AS n FROM devices ${where} GROUP BY status`), [{ n: 3, status: 'enabled' }], 'groups');
      const err = await refused(ask('SELECT * FROM devices WHERE tags.place ='), 'half a query');
      same(err.name, 'ArgumentError', 'error');
      expect(err.responseBody.includes('column 41'), `no place in ${err.responseBody}`);
      await Promise.all(ids.map((id) => registry.delete(id)));
    },
    async deployments() {
      const mark = crypto.randomUUID();
      const deviceId = `deployment-${mark}`;
      await registry.create({ deviceId, capabilities: { iotEdge: true } });
      await registry.updateTwin(deviceId, { tags: { mark } }, '*');
      const agent = { schemaVersion: '1.1', runtime: {}, systemModules: {} };
      const make = (name, priority, modulesContent) => registry.addConfiguration({
        id: `${name}-${mark}`, content: { modulesContent }, targetCondition: `tags.mark = '${mark}'`, priority, labels: { made: 'here' },
        metrics: { queries: { mine: `select deviceId from devices where tags.mark = '${mark}'` } },
      });
      const base = body(await make('base', 1, { $edgeAgent: { 'properties.desired': agent }, temp: { 'properties.desired': { a: 1, b: 2 } } }));
      await make('layer', 2, { temp: { 'properties.desired.b': 3 } });
      const applied = async () => {
        const doc = body(await registry.getConfiguration(base.id));
        return doc.systemMetrics.results.appliedCount === 1 && doc;
      };
      const desired = async () => body(await registry.getModuleTwin(deviceId, 'temp')).properties.desired;
      for (let i = 0; !(await applied()) || (await desired()).b !== 3; i += 1) {
        expect(i < 100, 'the deployments are not applied');
        await sleep(100);
      }
      const doc = await applied();
      same([doc.systemMetrics.results.targetedCount, doc.metrics.results.mine, doc.labels.made], [1, 1, 'here'], 'metrics');
      same((await desired()).a, 1, 'what the layer leaves');
      expect(body(await registry.getConfigurations()).filter((c) => c.id.endsWith(mark)).length === 2, 'not both are listed');
      doc.priority = 5;
      const next = body(await registry.updateConfiguration(doc));
      same([next.priority, next.content.modulesContent.temp['properties.desired'].a], [5, 1], 'update');
      doc.content.modulesContent.temp['properties.desired'].a = 2;
      same((await refused(registry.updateConfiguration(doc, true), 'another content')).name, 'ArgumentError', 'error');
      same((await refused(registry.addConfiguration({ ...doc, targetCondition: 'tags.' }), 'an id that is taken')).name, 'DeviceAlreadyExistsError', 'error');
      await registry.removeConfiguration(base.id);
      await registry.removeConfiguration(`layer-${mark}`);
      await refused(registry.getConfiguration(base.id), 'a removed configuration');
      await registry.applyConfigurationContentOnDevice(deviceId, { modulesContent: { temp: { 'properties.desired': { c: 4 } } } });
      same((await desired()).c, 4, 'manifest for one device');
      await registry.delete(deviceId);
    },
    async 'delete a device'() {
      await registry.delete(id);
      same((await refused(registry.get(id), 'a deleted device')).name, 'DeviceNotFoundError', 'error');
    },
    async 'bad key refused'() {
      const other = s.config.service.replace(/SharedAccessKey=[^;]+/, `SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`);
      const err = await refused(service.Registry.fromConnectionString(other).get(id), 'a wrong key');
      same(err.name, 'UnauthorizedError', 'error');
    },
  };
}

function methodFeatures(s) {
  const invoke = (params) => s.service.invokeDeviceMethod(s.config.device, { methodName: 'echo', responseTimeoutInSeconds: 5, ...params });
  return {
    async 'method, device away'() {
      const err = await refused(invoke({}), 'a method of a device that is away');
      same(err.response && err.response.statusCode, 404, 'status');
    },
    async 'method, no answer in time'() {
      const device = Client.fromConnectionString(s.config.connection, Mqtt);
      await device.setOptions({ ca: fs.readFileSync(s.config.ca, 'utf8') });
      await device.open();
      device.onDeviceMethod('echo', () => {});
      await sleep(1000); // the SDK does not tell when it has subscribed
      const began = Date.now();
      const err = await refused(invoke({}), 'a method without an answer');
      await device.close();
      same(err.response && err.response.statusCode, 504, 'status');
      expect(Date.now() - began > 4000, 'the caller was answered too early');
    },
  };
}

function messageFeatures(s) {
  const make = (ack) => {
    const message = new Message('hello');
    message.messageId = crypto.randomUUID();
    message.ack = ack;
    return message;
  };
  // feedbackOf waits for the record of a message.
  const feedbackOf = (id) => happens(s.feedback, 'message', (batch) => {
    const records = JSON.parse(batch.data.toString());
    return records.find((r) => r.originalMessageId === id);
  });
  return {
    async open() {
      await s.service.open();
    },
    async 'feedback receiver'() {
      s.feedback = body(await s.service.getFeedbackReceiver());
      s.feedback.on('errorReceived', (err) => process.stderr.write(`feedback: ${err.message}\n`));
      s.feedback.on('message', (batch) => s.feedback.complete(batch, () => {}));
    },
    async 'C2D to an unknown device refused'() {
      const err = await refused(s.service.send('nobody-of-this-name', make('none')), 'a message to nobody');
      same(err.name, 'DeviceNotFoundError', 'error');
    },
    async 'C2D and feedback: Success'() {
      const message = make('full');
      const record = feedbackOf(message.messageId);
      await s.service.send(s.config.device, message);
      const device = Client.fromConnectionString(s.config.connection, Mqtt);
      await device.setOptions({ ca: fs.readFileSync(s.config.ca, 'utf8') });
      const got = happens(device, 'message', (m) => m.messageId === message.messageId && m);
      await device.open();
      await device.complete(await within(20000, 'message at the device', got));
      const r = await within(30000, 'feedback', record);
      same([r.statusCode, r.deviceId], ['Success', s.config.device], 'record');
      await device.close();
    },
    async 'feedback: Expired'() {
      const message = make('negative');
      message.expiryTimeUtc = Date.now() + 1000;
      const record = feedbackOf(message.messageId);
      await s.service.send(s.config.device, message);
      same((await within(40000, 'feedback', record)).statusCode, 'Expired', 'status');
    },
    async 'queue of 50 is full'() {
      let err;
      for (let i = 0; i < 51 && !err; i += 1) {
        err = await s.service.send(s.config.other, make('none')).then(() => undefined, (e) => e);
      }
      expect(err, '51 messages were taken');
      same(err.name, 'DeviceMaximumQueueDepthExceededError', 'error');
    },
    async close() {
      await s.service.close();
    },
  };
}

run(async (config) => {
  const s = { config, registry: service.Registry.fromConnectionString(config.service) };
  s.service = service.Client.fromConnectionString(config.service, { amqp: service.Amqp, 'amqp-ws': service.AmqpWs }[config.transport]);
  s.service.setRetryPolicy(new NoRetry());
  return {
    features: { ...registryFeatures(s), ...methodFeatures(s), ...messageFeatures(s) },
    finish: () => s.service.close(),
  };
});
