'use strict';
// A module made with the stock device SDK and nothing else. It takes everything it
// needs from its environment, as every module does: it sends a numbered message to
// output1 twice a second, passes what comes in at input1 on to the output echo, and
// answers the direct method echo with what it was asked.

const crypto = require('crypto');
const { Message, ModuleClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const batch = `node-${crypto.randomUUID()}`;

function say(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

async function main() {
  const client = await ModuleClient.fromEnvironment(Mqtt);
  client.on('error', (err) => say({ event: 'error', error: err.message }));
  await client.open();
  say({ event: 'connected', batch });

  client.on('inputMessage', async (input, message) => {
    const copy = new Message(message.getData());
    message.properties.propertyList.forEach(({ key, value }) => copy.properties.add(key, value));
    try {
      await client.sendOutputEvent('echo', copy);
      await client.complete(message);
      say({ event: 'passed on', input });
    } catch (err) {
      say({ event: 'failed', error: err.message });
    }
  });

  client.onMethod('echo', (request, response) => {
    response.send(200, { echo: request.payload }, (err) => err && say({ event: 'failed', error: err.message }));
  });

  let number = 0;
  const timer = setInterval(() => {
    number += 1;
    const message = new Message(JSON.stringify({ number }));
    message.properties.add('batchId', batch);
    message.properties.add('sequenceNumber', String(number));
    client.sendOutputEvent('output1', message, (err) => err && say({ event: 'failed', error: err.message }));
  }, 500);

  process.on('SIGTERM', () => {
    clearInterval(timer);
    client.close(() => process.exit(0));
  });
}

main().catch((err) => {
  say({ event: 'failed', error: err.message });
  process.exit(1);
});
