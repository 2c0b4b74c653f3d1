// The verbs of a memory from Node.js, straight from the .proto: node memory.mjs HOST:PORT, or
// npm --prefix tests/node start HOST:PORT, from anywhere, which gets the packages first.
//
// MEMSTORE_TOKEN is the token that `memstore token` told, where the server asks for one.
// MEMSTORE_CA is a PEM file of who signed the server's certificate, where it speaks TLS.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../protos/memstore/v1/memory.proto", import.meta.url));
const MESSAGE_BYTES = 64 << 20; // as the server's; grpc-js takes no reply beyond 4 MiB otherwise
const DEADLINE_MS = 30_000;

// int64 as a string: a number of JavaScript is exact up to 2^53 only.
const definition = loadSync(PROTO, { keepCase: true, longs: String, defaults: true });
const { MemoryService, AdminService } = grpc.loadPackageDefinition(definition).memstore.v1;

// Tensors are little-endian, and so are these arrays wherever Node.js runs but on s390x.
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

function tensor(array, shape = [array.length]) {
  const dtype = Object.keys(ARRAYS).find((name) => array instanceof ARRAYS[name]);
  return { dtype, shape, data: Buffer.from(array.buffer, array.byteOffset, array.byteLength) };
}

function numbers({ dtype, data }) {
  if (!(dtype in ARRAYS)) throw new TypeError(`Node.js has no array of ${dtype}`);
  // A copy: in the message the bytes lie anywhere, and a typed array wants them aligned.
  return new ARRAYS[dtype](Uint8Array.from(data).buffer);
}

function connect(address, token, authority) {
  const { createInsecure, createSsl } = grpc.credentials;
  // npm runs this in its own folder, and says where it was called.
  const pem = authority && readFileSync(resolve(process.env.INIT_CWD ?? "", authority));
  const credentials = pem ? createSsl(pem) : createInsecure();
  const options = { "grpc.max_receive_message_length": MESSAGE_BYTES };
  const metadata = new grpc.Metadata();
  if (token) metadata.set("authorization", `Bearer ${token}`);

  const clients = [MemoryService, AdminService].map((S) => new S(address, credentials, options));
  const [memory, admin] = clients.map((client) => (verb, request) => {
    const until = { deadline: Date.now() + DEADLINE_MS };
    return new Promise((resolve, reject) => {
      const done = (error, reply) => (error ? reject(error) : resolve(reply));
      client[verb](request, metadata, until, done);
    });
  });
  return { memory, admin, close: () => clients.forEach((client) => client.close()) };
}

// What went wrong, by the `Error` of the .proto; nothing where the server did not say.
function typed(error) {
  const [data] = error.metadata?.get("memstore-error-bin") ?? [];
  return data && definition["memstore.v1.Error"].deserialize(data);
}

const memory = "from-node";
const config = { dim: 4, index: { kind: "exact" }, optimizer: { kind: "sgd" } };
const server = connect(process.argv[2], process.env.MEMSTORE_TOKEN, process.env.MEMSTORE_CA);

await server.admin("Create", { memory, config: JSON.stringify(config) });

const keys = new Float32Array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 4]].flat());
const appended = await server.memory("Append", { memory, keys: tensor(keys, [3, 4]) });
const slots = numbers(appended.slots);

const queries = tensor(new Float32Array([0, 1, 2, 0]), [1, 4]);
const found = await server.memory("Search", { memory, queries, k: 2 });

// Under one number a step is taken once, however often it is sent: 0.5 × 1 off the first element.
const step = {
  memory,
  request_id: { client: `node-${randomUUID()}`, number: 1 },
  slots: tensor(slots.subarray(0, 1)),
  key_grads: tensor(new Float32Array([1, 0, 0, 0]), [1, 4]),
  lr: 0.5,
};
const updated = await server.memory("Update", step);
const again = await server.memory("Update", step);
const rows = await server.memory("Gather", { memory, slots: tensor(slots) });

const missing = { memory, slots: tensor(new BigInt64Array([1_000n])) };
const refused = await server.memory("Gather", missing).catch((error) => error);

const told = {
  slots: Array.from(slots, Number),
  found: Array.from(numbers(found.slots), Number),
  scores: Array.from(numbers(found.scores)),
  applied: [updated, again].map((reply) => Number(reply.applied)),
  shape: rows.keys.shape.map(Number),
  keys: Array.from(numbers(rows.keys)),
  code: grpc.status[refused.code],
  error: typed(refused),
};
console.log(JSON.stringify(told));
server.close();
