{{/* The name of everything here: other programs and the rights below rely on it, so no value changes it. */}}
{{- define "heddle.name" -}}
heddle-injector
{{- end }}

{{/* What selects the control plane's pods; it cannot change while a Deployment lives. */}}
{{- define "heddle.selector" -}}
app.kubernetes.io/name: heddle-injector
{{- end }}

{{- define "heddle.labels" -}}
{{ include "heddle.selector" . }}
app.kubernetes.io/part-of: heddle
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* An image: include "heddle.image" (list . "heddle-proxy") */}}
{{- define "heddle.image" -}}
{{- $top := index . 0 }}
{{- $registry := $top.Values.image.registry | trimSuffix "/" }}
{{- $tag := $top.Values.image.tag | default $top.Chart.AppVersion }}
{{- if $registry }}{{ $registry }}/{{ end }}{{ index . 1 }}:{{ $tag }}
{{- end }}

{{/* The Secret that holds the authority. */}}
{{- define "heddle.authority" -}}
{{- .Values.identity.issuerSecret | default "heddle-ca" }}
{{- end }}

{{/* The namespaces of Kubernetes and of Heddle itself, and those that the operator names. */}}
{{- define "heddle.excludedNamespaces" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}

{{- define "heddle.hasPodMonitors" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor" }}true{{ end }}
{{- end }}
