{{/* What every container on a node has in common: nothing that it does not need. */}}
{{- define "manx.node.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- with .Values.felix.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.felix.appArmorProfile }}
appArmorProfile:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* felix's environment: where it is, where its datastore is, and what it writes for the container runtime. */}}
{{- define "manx.node.environment" -}}
- name: DATASTORE_TYPE
  value: kubernetes
- name: WAIT_FOR_DATASTORE
  value: "true"
- name: NODENAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- include "manx.apiServer" . }}
- name: CALICO_NETWORKING_BACKEND
  valueFrom:
    configMapKeyRef:
      name: manx-config
      key: calico_backend
{{- if eq .Values.networking "manx" }}
# The network configuration, which felix fills in and writes when everything is in force.
- name: CNI_CONF_DIR
  value: /host/etc/cni/net.d
- name: CNI_CONF_NAME
  value: {{ .Values.cni.confName | quote }}
- name: CNI_MTU
  valueFrom:
    configMapKeyRef:
      name: manx-config
      key: veth_mtu
- name: CNI_NETWORK_CONFIG
  valueFrom:
    configMapKeyRef:
      name: manx-config
      key: cni_network_config
- name: IP
  value: autodetect
- name: IP_AUTODETECTION_METHOD
  value: {{ .Values.ip.autodetectionMethod | quote }}
- name: IP6
  value: autodetect
- name: IP6_AUTODETECTION_METHOD
  value: {{ .Values.ip.autodetectionMethod6 | quote }}
{{- else }}
# Another network makes the routes.
- name: FELIX_ROUTESYNCDISABLED
  value: "true"
- name: FELIX_IPFORWARDING
  value: Disabled
{{- end }}
- name: FELIX_STATEDIR
  value: {{ .Values.felix.stateDir | quote }}
- name: FELIX_CNISOCKETPATH
  value: {{ printf "%s/cni.sock" .Values.felix.runDir | quote }}
- name: FELIX_SYSCTLPATH
  value: /host/proc/sys
- name: FELIX_HEALTHENABLED
  value: "true"
- name: FELIX_HEALTHHOST
  value: 127.0.0.1
- name: FELIX_HEALTHPORT
  value: {{ .Values.felix.healthPort | quote }}
- name: FELIX_PROMETHEUSMETRICSENABLED
  value: {{ .Values.felix.metricsEnabled | quote }}
- name: FELIX_PROMETHEUSMETRICSPORT
  value: {{ .Values.felix.metricsPort | quote }}
# The log is the container's; the root file system is read-only.
- name: FELIX_LOGFILEPATH
  value: none
{{- with .Values.felix.rules }}
# What holds policy in the kernel.
- name: FELIX_NFTABLESMODE
  value: {{ get (dict "Auto" "Auto" "NFTables" "Enabled") . | default "Disabled" }}
- name: FELIX_IPTABLESBACKEND
  value: {{ get (dict "IptablesLegacy" "Legacy" "IptablesNFT" "NFT") . | default "Auto" }}
{{- end }}
{{- $taken := list "DATASTORETYPE" "FELIXHOSTNAME" "STATEDIR" "CNISOCKETPATH" "SYSCTLPATH" "HEALTHENABLED" "HEALTHHOST" "HEALTHPORT" "PROMETHEUSMETRICSENABLED" "PROMETHEUSMETRICSPORT" "LOGFILEPATH" }}
{{- if .Values.felix.rules }}
{{- $taken = concat $taken (list "NFTABLESMODE" "IPTABLESBACKEND") }}
{{- end }}
{{- range $name, $value := .Values.felix.config }}
{{- if has (upper $name) $taken }}
{{- fail (printf "felix.config.%s: the chart sets it itself, by a value of its own (see felix in values.yaml)" $name) }}
{{- end }}
- name: FELIX_{{ upper $name }}
  value: {{ (kindIs "float64" $value | ternary (int64 $value | toString) (toString $value)) | quote }}
{{- end }}
{{- with .Values.felix.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
