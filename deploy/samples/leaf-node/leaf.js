'use strict';
// A leaf device made with the stock device SDK and nothing else: it connects to
// edgeHub by the GatewayHostName of its connection string, trusts the device's root
// certificate, sends a numbered message at a steady rate and prints a line for each
// message that the hub has acknowledged.
//
// Environment: LEAF_CONNECTION_STRING, LEAF_CA_FILE, LEAF_INTERVAL_MS (200).
// SIGTERM: waits for the messages that are on their way, then ends.

const fs = require('fs');
const crypto = require('crypto');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const batch = crypto.randomUUID();
const interval = Number(process.env.LEAF_INTERVAL_MS || '200');
const client = Client.fromConnectionString(process.env.LEAF_CONNECTION_STRING, Mqtt);

let sequence = 0;
let pending = 0;
let stopping = false;
let timer;

function say(event) {
  process.stdout.write(JSON.stringify(event) + '\n');
}

function send() {
  sequence += 1;
  const number = sequence;
  const message = new Message(JSON.stringify({ level: 40 + 10 * Math.sin(number / 20), number }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = `${batch}-${number}`;
  message.properties.add('batchId', batch);
  message.properties.add('sequenceNumber', String(number));
  deliver(message, number);
}

// deliver sends until the hub has acknowledged: at least once.
function deliver(message, number) {
  pending += 1;
  client.sendEvent(message, (err) => {
    pending -= 1;
    if (err) {
      say({ event: 'retry', number, error: err.message });
      setTimeout(() => deliver(message, number), 500);
      return;
    }
    say({ event: 'acknowledged', batch, number });
    if (stopping) {
      finish();
    }
  });
}

function finish() {
  if (pending > 0) {
    return;
  }
  client.close(() => process.exit(0));
}

process.on('SIGTERM', () => {
  stopping = true;
  clearInterval(timer);
  finish();
});

async function main() {
  await client.setOptions({ ca: fs.readFileSync(process.env.LEAF_CA_FILE, 'utf8') });
  client.on('error', (err) => say({ event: 'error', error: err.message }));
  client.on('disconnect', () => say({ event: 'disconnected' }));
  await client.open();
  say({ event: 'connected' });
  timer = setInterval(send, interval);
}

main().catch((err) => {
  say({ event: 'failed', error: err.message });
  process.exit(1);
});
