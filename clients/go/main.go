// Streams a completion from skimd: how a client of skim.v1 looks in Go.
//
//	go generate && go run . 127.0.0.1:50051 "The three primary colours are"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"skim.example/client/skimv1"
)

//go:generate protoc -I ../../proto --go_out=. --go-grpc_out=. --go_opt=module=skim.example/client --go-grpc_opt=module=skim.example/client --go_opt=Mskim/v1/inference.proto=skim.example/client/skimv1 --go-grpc_opt=Mskim/v1/inference.proto=skim.example/client/skimv1 skim/v1/inference.proto

const attempts = 5

// retryDelay says how long the server asks us to wait before the same call, and whether to
// repeat it at all.
func retryDelay(err error) (time.Duration, bool) {
	s := status.Convert(err)
	if s.Code() == codes.Unavailable { // starting, or shutting down
		return time.Second, true
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok { // the queue is full
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// generate hands the events of the stream to show, until the end or until show says stop. It
// repeats the call only while nothing has come of it.
func generate(ctx context.Context, client skimv1.InferenceClient, request *skimv1.GenerateRequest,
	show func(*skimv1.GenerateResponse) (more bool)) error {
	for attempt := 1; ; attempt++ {
		began, err := stream(ctx, client, request, show)
		delay, again := retryDelay(err)
		if err == nil || began || !again || attempt == attempts {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func stream(ctx context.Context, client skimv1.InferenceClient, request *skimv1.GenerateRequest,
	show func(*skimv1.GenerateResponse) bool) (began bool, err error) {
	// Leaving early cancels the call; its memory is free a step later.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	responses, err := client.Generate(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		response, err := responses.Recv()
		if errors.Is(err, io.EOF) {
			return began, nil
		}
		if err != nil {
			return began, err
		}
		began = true
		if !show(response) {
			return began, nil
		}
	}
}

func main() {
	maxTokens := flag.Uint("max-tokens", 64, "")
	timeout := flag.Float64("timeout", 60, "seconds")
	cancelAfter := flag.Int("cancel-after", 0, "tokens; 0 = never")
	flag.Parse()

	connection, err := grpc.NewClient(flag.Arg(0),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()

	limit, greedy := uint32(*maxTokens), float32(0)
	request := &skimv1.GenerateRequest{
		Input:    &skimv1.GenerateRequest_Text{Text: flag.Arg(1)},
		Sampling: &skimv1.Sampling{MaxTokens: &limit, Temperature: &greedy},
	}
	// The deadline travels with the call: overdue work is not computed.
	ctx, cancel := context.WithTimeout(context.Background(),
		time.Duration(*timeout*float64(time.Second)))
	defer cancel()

	tokens := 0
	err = generate(ctx, skimv1.NewInferenceClient(connection), request,
		func(response *skimv1.GenerateResponse) bool {
			if final := response.GetFinal(); final != nil {
				fmt.Fprintf(os.Stderr, "\n%v %d\n", final.FinishReason, final.Usage.GeneratedTokens)
				return true
			}
			fmt.Print(response.GetDelta().GetText())
			tokens += len(response.GetDelta().GetTokenIds())
			return *cancelAfter == 0 || tokens < *cancelAfter
		})
	if err != nil {
		fmt.Fprintf(os.Stderr, "\n%v: %v\n", status.Code(err), status.Convert(err).Message())
		os.Exit(1)
	}
}
