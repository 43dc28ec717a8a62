{{/* Names and fragments that several templates share. Names are fixed: a cluster has one network. */}}

{{/* Labels of every object. Call with a dict of `root` and `name`. */}}
{{- define "manx.labels" -}}
{{ include "manx.selector" . }}
app.kubernetes.io/part-of: manx
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels by which pods are selected; a DaemonSet and a Deployment never change theirs. */}}
{{- define "manx.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "manx.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The environment by which a client inside a pod finds the API server; empty leaves what kubelet gives. */}}
{{- define "manx.apiServer" -}}
{{- with .Values.kubernetesServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.kubernetesServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The network configuration that felix fills in and writes. */}}
{{- define "manx.networkConfig" -}}
{{- if .Values.cni.networkConfig -}}
{{ .Values.cni.networkConfig }}
{{- else -}}
{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "manx",
      "log_level": "info",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "manx_socket": "{{ .Values.felix.runDir }}/cni.sock",
      "ipam": {"type": {{ .Values.cni.ipam | quote }}},
      "policy": {"type": "k8s"}
      {{- if eq .Values.cni.hostPorts "manx" }},
      "capabilities": {"portMappings": true}
      {{- end }}
    }
    {{- if eq .Values.cni.hostPorts "portmap" }},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
    {{- end }}
  ]
}
{{- end }}
{{- end }}
