// Calls over several daemons by one of gRPC's own policies:
//   node balanced_load.js POLICY SECONDS CONCURRENCY HOST:PORT HOST:PORT...
// Prints how many calls ended well; any other ending ends the program with 1.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const [policy, seconds, concurrency, ...addresses] = process.argv.slice(2);
const settings = {
  round_robin: {},
  weighted_round_robin: {
    enableOobLoadReport: true,
    oobReportingPeriod: '1s',
    blackoutPeriod: '1s',
    weightUpdatePeriod: '1s',
  },
};
const definition = protoLoader.loadSync(
  path.join(__dirname, '../../proto/skim/v1/inference.proto'), { keepCase: true });
const { Inference } = grpc.loadPackageDefinition(definition).skim.v1;
const client = new Inference(`ipv4:${addresses.join(',')}`, grpc.credentials.createInsecure(), {
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ [policy]: settings[policy] }] }),
});

const request = {
  text: 'The three primary colours are',
  sampling: { max_tokens: 12, ignore_eos: true },
};
const end = Date.now() + Number(seconds) * 1000;
let answered = 0;

const one = () => new Promise((resolve, reject) => {
  client.Generate(request).on('data', () => {}).on('error', reject).on('end', resolve);
});

async function caller() {
  while (Date.now() < end) {
    await one();
    answered++;
  }
}

Promise.all(Array.from({ length: Number(concurrency) }, caller)).then(
  () => { console.log(answered); client.close(); },
  (error) => { console.error(error); process.exit(1); });
