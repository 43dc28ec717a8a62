{{/*
Whether the hooks of an uninstall are part of the release. Helm keeps them and runs them at `helm uninstall`. Whoever only
renders the chart (`helm template | kubectl apply`) would run them at once, and a template cannot be told who reads it:
but only Helm itself, talking to a cluster, finds anything there.
*/}}
{{- define "manx.uninstall.isWanted" -}}
{{- if or (eq .Values.uninstall.hooks "always") (and (eq .Values.uninstall.hooks "auto") (lookup "v1" "Namespace" "" "kube-system")) -}}
true
{{- end -}}
{{- end }}

{{/* Nothing of an uninstall stands while the release lives. Call with a weight: the lower comes first. */}}
{{- define "manx.uninstall.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
