{{/* The controller's environment: where its datastore is, which loops run, and what the defaults are. */}}
{{- define "manx.controller.environment" -}}
- name: DATASTORE_TYPE
  value: kubernetes
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- include "manx.apiServer" . }}
- name: ENABLED_CONTROLLERS
  value: {{ .Values.controller.enabledControllers | quote }}
- name: RECONCILER_PERIOD
  value: {{ .Values.controller.reconcilePeriod | quote }}
- name: LEAK_GRACE
  value: {{ .Values.controller.leakGrace | quote }}
{{- if or (eq .Values.networking "none") (not .Values.pools.createDefault) }}
- name: NO_DEFAULT_POOLS
  value: "true"
{{- else }}
{{- with .Values.pools.ipv4 }}
{{- with .cidr }}
- name: CALICO_IPV4POOL_CIDR
  value: {{ . | quote }}
{{- end }}
{{- with .blockSize }}
- name: CALICO_IPV4POOL_BLOCK_SIZE
  value: {{ . | quote }}
{{- end }}
- name: CALICO_IPV4POOL_VXLAN
  value: {{ .vxlan }}
- name: CALICO_IPV4POOL_IPIP
  value: {{ .ipip }}
- name: CALICO_IPV4POOL_NAT_OUTGOING
  value: {{ .natOutgoing | quote }}
- name: CALICO_IPV4POOL_NODE_SELECTOR
  value: {{ .nodeSelector | quote }}
{{- end }}
{{- with .Values.pools.ipv6 }}
{{- with .cidr }}
- name: CALICO_IPV6POOL_CIDR
  value: {{ . | quote }}
{{- end }}
{{- with .blockSize }}
- name: CALICO_IPV6POOL_BLOCK_SIZE
  value: {{ . | quote }}
{{- end }}
- name: CALICO_IPV6POOL_VXLAN
  value: {{ .vxlan }}
- name: CALICO_IPV6POOL_NAT_OUTGOING
  value: {{ .natOutgoing | quote }}
- name: CALICO_IPV6POOL_NODE_SELECTOR
  value: {{ .nodeSelector | quote }}
{{- end }}
{{- end }}
{{- with .Values.controller.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
