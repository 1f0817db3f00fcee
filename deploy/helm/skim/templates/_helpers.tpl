{{- define "skim.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "skim.selector" -}}
app.kubernetes.io/name: skim
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "skim.labels" -}}
{{ include "skim.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What a schema cannot say. */ -}}
{{- define "skim.check" -}}
{{- $claim := not (empty .Values.model.existingClaim) -}}
{{- $download := not (empty .Values.model.download.image) -}}
{{- if eq $claim $download -}}
{{- fail "model: set exactly one of existingClaim and download.image" -}}
{{- end -}}
{{- $drain := index .Values.args "drain-timeout" | default "30s" | trimSuffix "s" | int -}}
{{- $needed := add .Values.preStopSeconds $drain -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is less than preStopSeconds + args.drain-timeout, %d" (int .Values.terminationGracePeriodSeconds) (int $needed)) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling: minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- end -}}

{{- define "skim.probe" -}}
{{- if .root.Values.tlsSecret -}}
tcpSocket: {port: grpc}
{{- else -}}
grpc:
  port: {{ .root.Values.ports.grpc }}
  service: {{ .service }}
{{- end -}}
{{- end -}}
