{{/* heddle-injector's command line. What has the program's own default is left out. */}}
{{- define "heddle.arguments" -}}
- --kubernetes
- --proxy-image={{ include "heddle.image" (list . "heddle-proxy") }}
- --init-image={{ include "heddle.image" (list . "heddle-init") }}
- --mtls-mode={{ .Values.mtlsMode }}
- --trust-domain={{ .Values.identity.trustDomain }}
- --leaf-ttl={{ int64 .Values.identity.leafTtlSeconds }}
{{- if .Values.identity.issuerSecret }}
- --issuer-secret={{ .Values.identity.issuerSecret }}
{{- else }}
- --create-ca
{{- end }}
{{- range .Values.clusterCidrs }}
- --cluster-cidr={{ . }}
{{- end }}
{{- with .Values.tracing }}
{{- if .otlpEndpoint }}
- {{ printf "--otlp-endpoint=%s" .otlpEndpoint | quote }}
- --trace-ratio={{ .ratio }}
{{- end }}
{{- end }}
- {{ printf "--log=%s" .Values.log | quote }}
{{- end }}
