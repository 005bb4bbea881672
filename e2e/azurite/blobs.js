'use strict';
// What the tests ask a storage server: to make a container and an address for an
// upload, or what lies in a container. The answer is one line of JSON.
//
//   node blobs.js ENDPOINT ACCOUNT KEY grant|list CONTAINER

const { BlobServiceClient, ContainerSASPermissions, StorageSharedKeyCredential } = require('@azure/storage-blob');

const [endpoint, account, key, what, name] = process.argv.slice(2);
const service = new BlobServiceClient(`${endpoint}/${account}`, new StorageSharedKeyCredential(account, key));
const container = service.getContainerClient(name);

// grant is the address that a back end gives to the agent: it may write, and no more.
async function grant() {
  await container.create();
  return container.generateSasUrl({
    permissions: ContainerSASPermissions.parse('w'),
    expiresOn: new Date(Date.now() + 3600 * 1000),
  });
}

async function list() {
  const all = [];
  for await (const { name: path, properties } of container.listBlobsFlat()) {
    const content = await container.getBlobClient(path).downloadToBuffer();
    all.push({
      path,
      kind: properties.blobType,
      type: properties.contentType,
      encoding: properties.contentEncoding || '',
      content: content.toString('base64'),
    });
  }
  return all;
}

({ grant, list })[what]().then(
  (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`),
  (err) => {
    process.stderr.write(`${err.stack}\n`);
    process.exit(1);
  },
);
