{{/* The parts of a pod that the Deployment and the online check share. */}}

{{/* Settings of the pod. */}}
{{- define "baton-jumpcloud.podSettings" -}}
{{- with include "baton-jumpcloud.imagePullSecrets" . }}
imagePullSecrets: {{- trim . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "baton-jumpcloud.serviceAccountName" . }}
automountServiceAccountToken: {{ include "baton-jumpcloud.automount" . }}
enableServiceLinks: false
{{- with $.Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "schedulerName" "runtimeClassName" "dnsPolicy" "dnsConfig" "hostAliases" }}
{{- with get $.Values $key }}
{{ tpl (toYaml (dict $key .)) $ }}
{{- end }}
{{- end }}
{{- if kindIs "bool" $.Values.hostUsers }}
hostUsers: {{ $.Values.hostUsers }}
{{- end }}
{{- end }}

{{/* The container's image, its confinement and its folders, the same wherever the program runs. */}}
{{- define "baton-jumpcloud.container" -}}
image: {{ include "baton-jumpcloud.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
workingDir: {{ include "baton-jumpcloud.workdir" . }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
resources: {{- include "baton-jumpcloud.resources" . | nindent 2 }}
volumeMounts:
  - name: workdir
    mountPath: {{ include "baton-jumpcloud.workdir" . }}
  {{- if include "baton-jumpcloud.credentialsVolume" . }}
  - name: credentials
    mountPath: {{ include "baton-jumpcloud.credentialsDir" . }}
    readOnly: true
  {{- end }}
  {{- range $name, $ca := include "baton-jumpcloud.authorities" . | fromYaml }}
  - name: {{ $name }}
    mountPath: {{ dir $ca.path }}
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "baton-jumpcloud.volumes" -}}
{{- with include "baton-jumpcloud.credentialsVolume" . }}
- name: credentials
  {{- trim . | nindent 2 }}
{{- end }}
{{- range $name, $ca := include "baton-jumpcloud.authorities" . | fromYaml }}
- name: {{ $name }}
  projected:
    sources:
      - {{ $ca.kind }}:
          name: {{ $ca.from }}
          items:
            - key: {{ $ca.key }}
              path: {{ base $ca.path }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/* The temporary folder of a pod that keeps nothing. */}}
{{- define "baton-jumpcloud.scratch" -}}
emptyDir:
  {{- with .Values.workdir.medium }}
  medium: {{ . }}
  {{- end }}
  sizeLimit: {{ .Values.workdir.sizeLimit }}
{{- end }}

{{/* Where the credentials are mounted from: credentials.volume, or the Secret with mode file. */}}
{{- define "baton-jumpcloud.credentialsVolume" -}}
{{- if .Values.credentials.volume }}
{{- tpl (toYaml .Values.credentials.volume) . }}
{{- else if eq .Values.credentials.mode "file" }}
projected:
  sources:
    - secret:
        name: {{ include "baton-jumpcloud.secretName" . }}
        items:
          {{- range include "baton-jumpcloud.credentialFiles" . | fromYaml }}
          - key: {{ . }}
            path: {{ . }}
          {{- end }}
{{- end }}
{{- end }}

{{/* The mounted certificate authorities by volume: kind and name of the object, its key, and the path of the file. */}}
{{- define "baton-jumpcloud.authorities" -}}
{{- range $name, $ca := dict "extra-ca" .Values.tls.extraCa "otlp-ca" .Values.otlp.ca }}
{{- if or $ca.configMap $ca.secret }}
{{ $name }}:
  kind: {{ empty $ca.configMap | ternary "secret" "configMap" }}
  from: {{ $ca.configMap | default $ca.secret }}
  key: {{ $ca.key }}
  path: /etc/baton-jumpcloud/{{ $name }}/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* The emptyDir is requested too where it takes disk, so that the scheduler knows of it. */}}
{{- define "baton-jumpcloud.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if not (or .Values.workdir.existingClaim .Values.workdir.medium) }}
{{- $disk := dict "requests" (dict "ephemeral-storage" .Values.workdir.sizeLimit) }}
{{- $resources = merge $resources $disk }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Sources of variables; a later one wins, and variables given one by one win over all. */}}
{{- define "baton-jumpcloud.envFrom" -}}
{{- if not (include "baton-jumpcloud.keyByKey" .) }}
- secretRef:
    name: {{ include "baton-jumpcloud.secretName" . }}
{{- end }}
- configMapRef:
    name: {{ include "baton-jumpcloud.fullname" . }}
{{- with .Values.extraEnvFrom }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/* One variable out of the downward API. Takes a dict: name, path. */}}
{{- define "baton-jumpcloud.fieldVariable" -}}
- name: {{ .name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ .path }}
{{- end }}

{{/* One variable out of a Secret. Takes a dict: name, secret, key, optional. */}}
{{- define "baton-jumpcloud.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
      {{- if .optional }}
      optional: true
      {{- end }}
{{- end }}

{{/* The variables that the daemon and the online check share. */}}
{{- define "baton-jumpcloud.env" -}}
{{- $workdir := include "baton-jumpcloud.workdir" . }}
{{- range list "BATON_WORK_DIR" "BATON_C1Z_TEMP_DIR" "BATON_TMPDIR" "TMPDIR" }}
- name: {{ . }}
  value: {{ $workdir }}
{{- end }}
{{- if not .Values.config.hostId }}
{{ include "baton-jumpcloud.fieldVariable" (dict "name" "BATON_HOST_ID" "path" "metadata.name") }}
{{- end }}
{{- if include "baton-jumpcloud.credentialsVolume" . }}
{{- range $setting, $file := include "baton-jumpcloud.credentialFiles" . | fromYaml }}
- name: {{ include "baton-jumpcloud.variable" $setting }}_FILE
  value: {{ printf "%s/%s" (include "baton-jumpcloud.credentialsDir" $) $file }}
{{- end }}
{{- end }}
{{- $secret := include "baton-jumpcloud.secretName" . }}
{{- if and $secret (include "baton-jumpcloud.keyByKey" .) }}
{{- range $setting, $from := include "baton-jumpcloud.credentialVariables" . | fromYaml }}
{{ include "baton-jumpcloud.secretVariable" (dict "name" (include "baton-jumpcloud.variable" $setting) "secret" $secret "key" $from.key "optional" $from.optional) }}
{{- end }}
{{- end }}
{{- with get (include "baton-jumpcloud.authorities" . | fromYaml) "extra-ca" }}
- name: BATON_CA_FILE
  value: {{ .path }}
{{- end }}
{{- include "baton-jumpcloud.proxy" . }}
{{- include "baton-jumpcloud.kubernetes" . }}
{{- with .Values.extraEnv }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/*
The proxy, in both cases of the names, since programs and libraries differ in which they read. KUBERNETES_SERVICE_HOST is set in
every container by the kubelet, which puts its value in.
*/}}
{{- define "baton-jumpcloud.proxy" -}}
{{- $proxy := .Values.proxy }}
{{- if or $proxy.httpsProxy $proxy.httpProxy $proxy.existingSecret }}
{{- range $name, $value := dict "HTTPS_PROXY" $proxy.httpsProxy "HTTP_PROXY" $proxy.httpProxy }}
{{- range list $name (lower $name) }}
{{- if $proxy.existingSecret }}
{{ include "baton-jumpcloud.secretVariable" (dict "name" . "secret" $proxy.existingSecret "key" $name "optional" (eq $name "HTTP_PROXY")) }}
{{- else if $value }}
- name: {{ . }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- $without := list "localhost" "127.0.0.1" "::1" "$(KUBERNETES_SERVICE_HOST)" ".svc" ".cluster.local" }}
{{- range list "NO_PROXY" "no_proxy" }}
- name: {{ . }}
  value: {{ append $without $proxy.noProxy | compact | join "," | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the program does with the API server, and as whom. */}}
{{- define "baton-jumpcloud.kubernetes" -}}
{{- if include "baton-jumpcloud.needsApiServer" . }}
{{- range $name, $path := dict "NAME" "metadata.name" "NAMESPACE" "metadata.namespace" "UID" "metadata.uid" }}
{{ include "baton-jumpcloud.fieldVariable" (dict "name" (printf "BATON_POD_%s" $name) "path" $path) }}
{{- end }}
{{- end }}
{{- if .Values.kubernetes.events.enabled }}
- name: BATON_KUBERNETES_EVENTS
  value: "true"
{{- end }}
{{- if .Values.kubernetes.leaderElection.enabled }}
- name: BATON_KUBERNETES_LEASE
  value: {{ include "baton-jumpcloud.fullname" . }}
{{- end }}
{{- if .Values.kubernetes.secretWatch.enabled }}
- name: BATON_KUBERNETES_SECRET
  value: {{ include "baton-jumpcloud.secretName" . }}
{{- $renamed := list }}
{{- range $setting, $key := include "baton-jumpcloud.credentialFiles" . | fromYaml }}
{{- if ne $key (include "baton-jumpcloud.variable" $setting) }}
{{- $renamed = append $renamed (printf "%s=%s" $setting $key) }}
{{- end }}
{{- end }}
{{- with $renamed }}
- name: BATON_KUBERNETES_SECRET_KEYS
  value: {{ join "," . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The variables of the daemon alone. */}}
{{- define "baton-jumpcloud.daemonEnv" -}}
- name: BATON_HEALTH_CHECK
  value: "true"
# Every address of the pod, of both families.
- name: BATON_HEALTH_CHECK_BIND_ADDRESS
  value: "::"
- name: BATON_HEALTH_CHECK_PORT
  value: {{ .Values.metrics.port | quote }}
{{- with .Values.otlp }}
{{- if .endpoint }}
- name: BATON_OTEL_COLLECTOR_ENDPOINT
  value: {{ .endpoint | quote }}
{{- if .insecure }}
- name: BATON_OTEL_COLLECTOR_ENDPOINT_TLS_INSECURE
  value: "true"
{{- end }}
{{- with get (include "baton-jumpcloud.authorities" $ | fromYaml) "otlp-ca" }}
- name: BATON_OTEL_COLLECTOR_ENDPOINT_TLS_CERT_PATH
  value: {{ .path }}
{{- end }}
{{- if .headersSecret.name }}
{{ include "baton-jumpcloud.secretVariable" (dict "name" "OTEL_EXPORTER_OTLP_HEADERS" "secret" .headersSecret.name "key" .headersSecret.key) }}
{{- end }}
{{- if not (kindIs "invalid" .sampleRatio) }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .sampleRatio | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A probe. Takes a dict: root, value (what replaces it), path, and the rest as fields. */}}
{{- define "baton-jumpcloud.probe" -}}
{{- if .value }}
{{- tpl (toYaml .value) .root }}
{{- else }}
{{- toYaml (merge (dict "httpGet" (dict "path" .path "port" "admin")) .timing) }}
{{- end }}
{{- end }}
