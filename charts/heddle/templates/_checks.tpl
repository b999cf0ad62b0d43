{{/* What no schema can say. Each refusal tells what to do. */}}
{{- define "heddle.checks" -}}
{{- if ne .Release.Namespace "heddle-system" }}
{{- fail (printf "Heddle's control plane lives in the namespace heddle-system, where its proxies look for it, not in %s: add -n heddle-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- with lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" (include "heddle.name" .) }}
{{- $owner := .metadata.annotations | default dict }}
{{- $release := index $owner "meta.helm.sh/release-name" | default "" }}
{{- if and $release (ne $release $.Release.Name) }}
{{- fail (printf "Heddle is here already, as the release %s in %s, and a cluster has one: helm upgrade %s, or uninstall it first" $release (index $owner "meta.helm.sh/release-namespace") $release) }}
{{- end }}
{{- end }}
{{- end }}
