#!/usr/bin/env node
// Streams a completion from skimd: how a client of skim.v1 looks in Node.
//
//   npm install
//   node generate.js 127.0.0.1:50051 "The three primary colours are"
'use strict';

const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const ATTEMPTS = 5;
const PROTO_DIR = path.join(__dirname, '../../proto');

function load(file) {
  const options = { includeDirs: [PROTO_DIR], keepCase: true, enums: String, longs: String };
  return grpc.loadPackageDefinition(protoLoader.loadSync(file, options));
}

const { Inference } = load('skim/v1/inference.proto').skim.v1;
const details = load('google/rpc/error_details.proto').google.rpc;
const { Status } = load('google/rpc/status.proto').google.rpc;

const decode = (type, bytes) => type.deserialize(bytes);

// How long the server asks us to wait before the same call; null: do not repeat it.
function retryDelayMs(error) {
  if (error.code === grpc.status.UNAVAILABLE) return 1000; // starting, or shutting down
  const [bytes] = error.metadata ? error.metadata.get('grpc-status-details-bin') : [];
  if (!bytes) return null;
  for (const any of decode(Status, bytes).details) {
    if (!any.type_url.endsWith('/google.rpc.RetryInfo')) continue;
    const { retry_delay: delay } = decode(details.RetryInfo, any.value); // the queue is full
    return Number(delay.seconds ?? 0) * 1000 + (delay.nanos ?? 0) / 1e6;
  }
  return null;
}

// Yields the events of the stream. Repeats the call only while nothing has come of it.
async function* generate(client, request, timeoutMs, cancelAfter) {
  const deadline = Date.now() + timeoutMs; // travels with the call: overdue work is not computed
  for (let attempt = 1; ; attempt++) {
    const call = client.Generate(request, { deadline });
    let tokens = 0;
    try {
      for await (const response of call) {
        yield response;
        tokens += response.delta ? response.delta.token_ids.length : 0;
        if (cancelAfter !== undefined && tokens >= cancelAfter) {
          call.on('error', () => {}); // our own cancellation
          call.cancel(); // its memory is free a step later
          return;
        }
      }
      return;
    } catch (error) {
      const delayMs = retryDelayMs(error);
      if (tokens > 0 || delayMs === null || attempt === ATTEMPTS) throw error;
      await sleep(delayMs);
    }
  }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      'max-tokens': { type: 'string', default: '64' },
      timeout: { type: 'string', default: '60' }, // seconds
      'cancel-after': { type: 'string' }, // tokens
    },
  });
  const [server, prompt] = positionals;
  const client = new Inference(server, grpc.credentials.createInsecure());
  const request = {
    text: prompt,
    sampling: { max_tokens: Number(values['max-tokens']), temperature: 0 },
  };
  const cancelAfter = values['cancel-after'] && Number(values['cancel-after']);
  try {
    for await (const response of generate(client, request, values.timeout * 1000, cancelAfter)) {
      if (response.delta) {
        process.stdout.write(response.delta.text);
      } else {
        const { finish_reason: reason, usage } = response.final;
        process.stderr.write(`\n${reason} ${usage.generated_tokens}\n`);
      }
    }
  } catch (error) {
    process.stderr.write(`\n${grpc.status[error.code] ?? 'ERROR'}: ${error.details ?? error}\n`);
    process.exitCode = 1;
  } finally {
    client.close();
  }
}

main();
