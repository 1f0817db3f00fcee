#include "server/kserve_service.h"

#include <utility>

#include "base/status_macros.h"
#include "server/kserve_output.h"
#include "server/kserve_stream.h"
#include "server/load_report.h"
#include "server/rpc_status.h"
#include "server/savings.h"
#include "server/version.h"

namespace skim {
namespace {

constexpr char kPlatform[] = "skim";

using StreamReactor =
    grpc::ServerBidiReactor<kserve::ModelInferRequest, kserve::ModelStreamInferResponse>;

// A call that is answered by one message.
class InferCall final : public grpc::ServerUnaryReactor, public GenerateSink {
 public:
  InferCall(grpc::CallbackServerContext* context, const ServedModel& model,
            const CallServices& services, KserveCall call, kserve::ModelInferResponse* response)
      : context_(context),
        load_(services.load),
        output_(std::move(call)),
        response_(response),
        call_(std::make_shared<GenerateCall>(&output_.request(), model, services,
                                             OriginOf(*context, services.clock->Now()), this)) {}

  void Start() { call_->Start(); }

  void Send(v1::GenerateResponse response, bool last) override {
    output_.Translate(std::move(response), response_);
    if (!last) return call_->OnSent(true);
    Finish(absl::OkStatus());
  }

  void Finish(const absl::Status& status) override {
    AddLoadTrailer(*load_, context_);
    grpc::ServerUnaryReactor::Finish(ToGrpcStatus(output_.TranslateError(status)));
  }

  // --- gRPC's threads ---
  void OnCancel() override { call_->OnClientGone(); }
  void OnDone() override {
    call_->Done();
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  const LoadMonitor* const load_;
  KserveOutput output_;
  kserve::ModelInferResponse* const response_;
  const std::shared_ptr<GenerateCall> call_;
};

class RefusedBidi final : public StreamReactor {
 public:
  explicit RefusedBidi(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Finished(grpc::CallbackServerContext* context,
                                   const absl::Status& status = absl::OkStatus()) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

template <typename Tensors>
void Describe(std::span<const TensorSpec> specs, Tensors* out) {
  for (const TensorSpec& spec : specs) {
    auto* tensor = out->Add();
    tensor->set_name(spec.name);
    tensor->set_datatype(spec.datatype);
    tensor->add_shape(spec.size);
  }
}

kserve::DataType DataTypeOf(std::string_view datatype) {
  if (datatype == "BYTES") return kserve::TYPE_STRING;
  if (datatype == "BOOL") return kserve::TYPE_BOOL;
  return datatype == "FP32" ? kserve::TYPE_FP32 : kserve::TYPE_UINT32;
}

template <typename Tensors>
void Configure(std::span<const TensorSpec> specs, Tensors* out) {
  for (const TensorSpec& spec : specs) {
    auto* tensor = out->Add();
    tensor->set_name(spec.name);
    tensor->set_data_type(DataTypeOf(spec.datatype));
    tensor->add_dims(spec.size);
  }
}

absl::Status CheckModel(const ServedModel& model, const std::string& name,
                        const std::string& version) {
  SKIM_ASSIGN_OR_RETURN(const std::string savings, SavingsInName(name, model.name, "name"));
  SKIM_RETURN_IF_ERROR(CheckSavings(savings, model, "name"));
  return CheckKserveVersion("version", version);
}

}  // namespace

KserveService::KserveService(const CallServices& services, const ServingGate* gate, BearerAuth auth)
    : services_(services), gate_(gate), auth_(std::move(auth)) {}

absl::StatusOr<ServedModel> KserveService::Admit(const Context& context) const {
  SKIM_RETURN_IF_ERROR(auth_.Check(context));
  return gate_->Enter();
}

bool KserveService::Ready() const {
  const auto model = gate_->Enter();
  return model.ok() && model->loop->healthy();
}

grpc::ServerUnaryReactor* KserveService::ServerLive(Context* context,
                                                    const kserve::ServerLiveRequest* /*request*/,
                                                    kserve::ServerLiveResponse* response) {
  const auto model = gate_->Enter();
  response->set_live(!model.ok() || model->loop->healthy());
  return Finished(context);
}

grpc::ServerUnaryReactor* KserveService::ServerReady(Context* context,
                                                     const kserve::ServerReadyRequest* /*request*/,
                                                     kserve::ServerReadyResponse* response) {
  response->set_ready(Ready());
  return Finished(context);
}

grpc::ServerUnaryReactor* KserveService::ModelReady(Context* context,
                                                    const kserve::ModelReadyRequest* request,
                                                    kserve::ModelReadyResponse* response) {
  const auto model = gate_->Enter();
  response->set_ready(Ready() && model.ok() &&
                      CheckModel(*model, request->name(), request->version()).ok());
  return Finished(context);
}

grpc::ServerUnaryReactor* KserveService::ServerMetadata(
    Context* context, const kserve::ServerMetadataRequest* /*request*/,
    kserve::ServerMetadataResponse* response) {
  response->set_name(kPlatform);
  response->set_version(kVersion);
  return Finished(context, auth_.Check(*context));
}

grpc::ServerUnaryReactor* KserveService::ModelMetadata(Context* context,
                                                       const kserve::ModelMetadataRequest* request,
                                                       kserve::ModelMetadataResponse* response) {
  const auto model = Admit(*context);
  if (!model.ok()) return Finished(context, model.status());
  const absl::Status known = CheckModel(*model, request->name(), request->version());
  if (!known.ok()) return Finished(context, known);
  response->set_name(request->name());
  response->add_versions(std::string(kKserveVersion));
  response->set_platform(kPlatform);
  Describe(InputSpecs(), response->mutable_inputs());
  Describe(OutputSpecs(), response->mutable_outputs());
  return Finished(context);
}

grpc::ServerUnaryReactor* KserveService::ModelConfig(Context* context,
                                                     const kserve::ModelConfigRequest* request,
                                                     kserve::ModelConfigResponse* response) {
  const auto model = Admit(*context);
  if (!model.ok()) return Finished(context, model.status());
  const absl::Status known = CheckModel(*model, request->name(), request->version());
  if (!known.ok()) return Finished(context, known);
  kserve::ModelConfig* config = response->mutable_config();
  config->set_name(request->name());
  config->set_platform(kPlatform);
  config->set_backend(kPlatform);
  Configure(InputSpecs(), config->mutable_input());
  Configure(OutputSpecs(), config->mutable_output());
  for (kserve::ModelInput& input : *config->mutable_input()) {
    input.set_optional(input.name() != InputSpecs()[0].name);
  }
  config->mutable_model_transaction_policy()->set_decoupled(true);
  return Finished(context);
}

grpc::ServerUnaryReactor* KserveService::ModelInfer(Context* context,
                                                    const kserve::ModelInferRequest* request,
                                                    kserve::ModelInferResponse* response) {
  const auto model = Admit(*context);
  auto call = FromKserve(*request, /*streamable=*/false);
  const absl::Status status = model.ok() ? call.status() : model.status();
  if (!status.ok()) {
    services_.metrics->OnRefused(status.code());
    return Finished(context, status);
  }
  auto* reactor = new InferCall(context, *model, services_, *std::move(call), response);
  reactor->Start();
  return reactor;
}

StreamReactor* KserveService::ModelStreamInfer(Context* context) {
  const auto model = Admit(*context);
  if (!model.ok()) {
    services_.metrics->OnRefused(model.status().code());
    return new RefusedBidi(model.status());
  }
  return new KserveStream(context, services_, gate_);
}

}  // namespace skim
