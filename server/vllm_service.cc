#include "server/vllm_service.h"

#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/generate_stream.h"
#include "server/kv_event_stream.h"
#include "server/rpc_status.h"
#include "server/savings.h"
#include "server/tokenizer_bundle.h"
#include "server/version.h"
#include "server/vllm_output.h"

namespace skim {
namespace {

using VllmStream = GenerateStream<vllm::GenerateResponse, VllmOutput>;
using smg::grpc::common::GetTokenizerChunk;

constexpr size_t kTokenizerChunkBytes = 1 << 20;

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[sizeof("2000-01-01T00:00:00Z")];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// What generation_config.json says, where it does.
std::string DefaultSampling(const ModelInfo& info) {
  nlohmann::json json = nlohmann::json::object();
  if (info.default_temperature >= 0) json["temperature"] = info.default_temperature;
  if (info.default_top_p > 0) json["top_p"] = info.default_top_p;
  if (info.default_top_k > 0) json["top_k"] = info.default_top_k;
  return json.dump();
}

// Reads the files on the text workers, then sends the archive piece by piece.
class TokenizerStream final : public grpc::ServerWriteReactor<GetTokenizerChunk> {
 public:
  TokenizerStream(std::string directory, TextWorkers* workers) {
    const bool posted = workers->TryPostAdmission([this, directory = std::move(directory)] {
      auto bundle = BundleTokenizer(directory);
      if (!bundle.ok()) return Finish(ToGrpcStatus(bundle.status()));
      bundle_ = *std::move(bundle);
      SendNext();
    });
    if (!posted) {
      Finish(ToGrpcStatus(RetryAfter(
          absl::ResourceExhaustedError("too many calls wait to be tokenised"), kRetryDelay)));
    }
  }

  void OnWriteDone(bool ok) override {
    if (ok) return SendNext();
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  void SendNext() {
    chunk_.set_data(bundle_.zip.substr(sent_, kTokenizerChunkBytes));
    sent_ += chunk_.data().size();
    if (sent_ < bundle_.zip.size()) return StartWrite(&chunk_);
    chunk_.set_sha256(bundle_.sha256);
    StartWriteAndFinish(&chunk_, grpc::WriteOptions(), grpc::Status::OK);
  }

  TokenizerBundle bundle_;
  size_t sent_ = 0;
  GetTokenizerChunk chunk_;
};

grpc::ServerUnaryReactor* Finished(grpc::CallbackServerContext* context,
                                   const absl::Status& status = absl::OkStatus()) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

VllmService::VllmService(const CallServices& services, const ServingGate* gate,
                         std::string savings, KvJournal* journal)
    : services_([&] {
        CallServices own = services;
        own.abortable = true;
        return own;
      }()),
      gate_(gate),
      savings_(std::move(savings)),
      journal_(journal),
      started_(services.clock->Now()) {}

grpc::ServerWriteReactor<vllm::GenerateResponse>* VllmService::Generate(
    Context* context, const vllm::GenerateRequest* request) {
  last_receive_.store(UnixSeconds());
  const auto model = gate_->Enter();
  auto translated =
      FromVllm(*request, model.ok() ? NameWithSavings(model->name, savings_) : std::string());
  const absl::Status status = model.ok() ? translated.status() : model.status();
  if (!status.ok()) {
    services_.metrics->OnRefused(status.code());
    return new RefusedStream<vllm::GenerateResponse>(status);
  }
  auto* stream =
      new VllmStream(context, *model, services_, VllmOutput(request, *std::move(translated)));
  stream->Start();
  return stream;
}

grpc::ServerUnaryReactor* VllmService::HealthCheck(Context* context,
                                                   const vllm::HealthCheckRequest* /*request*/,
                                                   vllm::HealthCheckResponse* response) {
  const auto model = gate_->Enter();
  if (!model.ok()) {
    response->set_message(std::string(model.status().message()));
  } else if (!model->loop->healthy()) {
    response->set_message("the engine has failed");
  } else {
    response->set_healthy(true);
  }
  return Finished(context);
}

grpc::ServerUnaryReactor* VllmService::Abort(Context* context, const vllm::AbortRequest* request,
                                             vllm::AbortResponse* /*response*/) {
  for (const std::string& id : request->request_ids()) services_.calls->Abort(id);
  return Finished(context);
}

grpc::ServerUnaryReactor* VllmService::GetModelInfo(Context* context,
                                                    const vllm::GetModelInfoRequest* /*request*/,
                                                    vllm::GetModelInfoResponse* response) {
  const auto model = gate_->Enter();
  if (!model.ok()) return Finished(context, model.status());
  const ModelInfo& info = *model->info;
  // Not the directory, which means nothing on the gateway's machine. Without a path, a gateway
  // would not ask for the tokenizer at all.
  const std::string name = NameWithSavings(model->name, savings_);
  response->set_model_path(name);
  response->set_served_model_name(name);
  response->set_is_generation(true);
  response->set_max_context_length(info.max_context);
  response->set_max_req_input_len(info.max_context - 1);
  response->set_vocab_size(info.vocabulary);
  response->set_model_type(info.architecture);
  for (const TokenId id : info.eos_tokens) response->add_eos_token_ids(id);
  response->set_default_sampling_params_json(DefaultSampling(info));
  return Finished(context);
}

grpc::ServerUnaryReactor* VllmService::GetServerInfo(Context* context,
                                                     const vllm::GetServerInfoRequest* /*request*/,
                                                     vllm::GetServerInfoResponse* response) {
  const Load load = services_.load->Read();
  const auto model = gate_->Enter();
  response->set_active_requests(static_cast<uint32_t>(services_.calls->size()));
  response->set_is_paused(!model.ok());
  response->set_last_receive_timestamp(last_receive_.load());
  response->set_uptime_seconds(static_cast<double>(services_.clock->Now() - started_) / 1e6);
  response->set_server_type("skim");
  response->set_data_parallel_size(1);
  if (model.ok()) {
    response->set_model_dtype(std::string(WeightFormatName(model->info->weights.front().format)));
    response->set_kv_cache_dtype(std::string(KvFormatName(model->info->kv_format)));
  }
  response->set_block_size(load.page_tokens);
  response->set_max_num_seqs(load.max_running);
  return Finished(context);
}

grpc::ServerUnaryReactor* VllmService::GetLoads(Context* context,
                                                const vllm::GetLoadsRequest* request,
                                                vllm::GetLoadsResponse* response) {
  if (request->dp_rank() != 0) {
    return Finished(context, InvalidField("dp_rank", "this server is one rank, 0"));
  }
  const Load load = services_.load->Read();
  response->set_timestamp(UtcNow());
  response->set_version(kVersion);
  response->set_dp_rank_count(1);
  vllm::SchedulerLoad* out = response->add_loads();
  out->set_num_running_reqs(load.state.running);
  out->set_num_waiting_reqs(load.state.waiting);
  out->set_num_total_reqs(load.state.running + load.state.waiting);
  out->set_num_used_tokens(static_cast<int32_t>(load.kv_tokens_owned));
  out->set_max_total_num_tokens(static_cast<int32_t>(load.kv_tokens_total));
  out->set_token_usage(load.KvUse());
  out->set_gen_throughput(load.generated_tokens_per_s);
  out->set_cache_hit_rate(load.cache_hit_ratio);
  out->set_utilization(load.SlotUse());
  out->set_max_running_requests(load.max_running);
  out->set_num_waiting_uncached_tokens(static_cast<int32_t>(load.state.waiting_tokens));
  return Finished(context);
}

grpc::ServerWriteReactor<GetTokenizerChunk>* VllmService::GetTokenizer(
    Context* /*context*/, const smg::grpc::common::GetTokenizerRequest* /*request*/) {
  const auto model = gate_->Enter();
  if (!model.ok()) return new RefusedStream<GetTokenizerChunk>(model.status());
  return new TokenizerStream(model->directory, services_.workers);
}

grpc::ServerWriteReactor<KvEventBatch>* VllmService::SubscribeKvEvents(
    Context* /*context*/, const smg::grpc::common::SubscribeKvEventsRequest* request) {
  const auto model = gate_->Enter();
  if (!model.ok()) return new RefusedStream<KvEventBatch>(model.status());
  if (!model->shares_prefixes) {
    return new RefusedStream<KvEventBatch>(
        absl::UnimplementedError("this server has no prefix cache"));
  }
  return KvEventStream::Start(journal_, services_.workers, request->start_sequence_number());
}

}  // namespace skim
