{{/* Names, labels and references. Everything that two templates need is here, and nothing else. */}}

{{- define "baton-jumpcloud.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "baton-jumpcloud.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- /* 49 leaves room for the longest suffix within the 63 characters of a label. */}}
{{- default $full .Values.fullnameOverride | trunc 49 | trimSuffix "-" }}
{{- end }}

{{- define "baton-jumpcloud.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* All that belongs to this release, whatever its part. */}}
{{- define "baton-jumpcloud.instanceLabels" -}}
app.kubernetes.io/name: {{ include "baton-jumpcloud.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The pods of the Deployment, and no pod of a test. Immutable. */}}
{{- define "baton-jumpcloud.selectorLabels" -}}
{{ include "baton-jumpcloud.instanceLabels" . }}
app.kubernetes.io/component: connector
{{- end }}

{{/*
Labels of an object or pod, later ones winning. Takes a dict: root, and labels, a list of maps.
The vendor's three are on everything, because its own manifests and tools look for them.
*/}}
{{- define "baton-jumpcloud.labels" -}}
{{- $root := .root }}
{{- $labels := include "baton-jumpcloud.instanceLabels" $root | fromYaml }}
{{- $labels = mergeOverwrite $labels (dict
  "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | trimAll "-._")
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "conductorone"
  "app" "baton-jumpcloud"
  "baton" "true"
  "baton-app" "jumpcloud"
) }}
{{- range prepend .labels $root.Values.commonLabels }}
{{- $labels = mergeOverwrite $labels (deepCopy .) }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/*
The metadata of an object. Takes a dict: root, and where they are wanted suffix, labels (a map), annotations (a map).
*/}}
{{- define "baton-jumpcloud.metadata" -}}
{{- $root := .root -}}
name: {{ .name | default (printf "%s%s" (include "baton-jumpcloud.fullname" $root) (.suffix | default "")) }}
namespace: {{ include "baton-jumpcloud.namespace" $root | quote }}
labels:
  {{- $chart := dict "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63) }}
  {{- include "baton-jumpcloud.labels" (dict "root" $root "labels" (list $chart (.labels | default dict))) | nindent 2 }}
{{- with mergeOverwrite (deepCopy $root.Values.commonAnnotations) (.annotations | default dict | deepCopy) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry }}
{{- $name := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (not (empty $registry)) }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.Values.image.tag | default (printf "v%s" .Chart.AppVersion)) }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.imagePullSecrets" -}}
{{- $names := list }}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
{{- if kindIs "string" . }}
{{- $names = append $names . }}
{{- else }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
{{- range uniq $names }}
- name: {{ . }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "baton-jumpcloud.fullname" .) }}
{{- end }}

{{/* "true" when a part of kubernetes.* speaks to the API server. */}}
{{- define "baton-jumpcloud.needsApiServer" -}}
{{- range .Values.kubernetes }}
{{- if .enabled }}true{{ break }}{{ end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.automount" -}}
{{- $wanted := .Values.serviceAccount.automount }}
{{- kindIs "bool" $wanted | ternary $wanted (eq (include "baton-jumpcloud.needsApiServer" .) "true") }}
{{- end }}

{{/* The Secret with the credentials; nothing when they come from credentials.volume. */}}
{{- define "baton-jumpcloud.secretName" -}}
{{- if .Values.credentials.create }}
{{- printf "%s-credentials" (include "baton-jumpcloud.fullname" .) }}
{{- else }}
{{- tpl .Values.credentials.existingSecret . }}
{{- end }}
{{- end }}

{{/* What the program reads as files: the name of the setting, and the key or file that holds it. */}}
{{- define "baton-jumpcloud.credentialFiles" -}}
{{- $keys := .Values.credentials.keys -}}
client-id: {{ $keys.clientId }}
client-secret: {{ $keys.clientSecret }}
{{- if eq .Values.credentials.jumpcloudAuth "serviceAccount" }}
jumpcloud-client-secret: {{ $keys.jumpcloudClientSecret }}
{{- else }}
api-key: {{ $keys.apiKey }}
{{- end }}
{{- end }}

{{/* What goes into the Secret that the chart makes, under the keys that the rest of the chart looks for. */}}
{{- define "baton-jumpcloud.credentials" -}}
{{- range $name, $value := .Values.credentials.values }}
{{- if $value }}
{{ get $.Values.credentials.keys $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same settings as variables. */}}
{{- define "baton-jumpcloud.variable" -}}
BATON_{{ . | replace "-" "_" | upper }}
{{- end }}

{{/*
What the program takes from the Secret as plain variables: what is no secret and, with mode env, the secrets too. Each has the
key and whether it may be absent. What config says goes first.
*/}}
{{- define "baton-jumpcloud.credentialVariables" -}}
{{- $keys := .Values.credentials.keys }}
{{- $wanted := dict }}
{{- if eq .Values.credentials.mode "env" }}
{{- range $setting, $key := include "baton-jumpcloud.credentialFiles" . | fromYaml }}
{{- $_ := set $wanted $setting (dict "key" $key "optional" false) }}
{{- end }}
{{- end }}
{{- if and (eq .Values.credentials.jumpcloudAuth "serviceAccount") (not .Values.config.jumpcloudClientId) }}
{{- $_ := set $wanted "jumpcloud-client-id" (dict "key" $keys.jumpcloudClientId "optional" false) }}
{{- end }}
{{- if not .Values.config.orgId }}
{{- $_ := set $wanted "org-id" (dict "key" $keys.orgId "optional" true) }}
{{- end }}
{{- if kindIs "invalid" .Values.config.provisioning }}
{{- $_ := set $wanted "provisioning" (dict "key" $keys.provisioning "optional" true) }}
{{- end }}
{{- toYaml $wanted }}
{{- end }}

{{/* "true" when the variables come key by key: with mode file, and when a key is not named as its variable. */}}
{{- define "baton-jumpcloud.keyByKey" -}}
{{- if eq .Values.credentials.mode "file" }}true{{ end }}
{{- range $setting, $from := include "baton-jumpcloud.credentialVariables" . | fromYaml }}
{{- if ne $from.key (include "baton-jumpcloud.variable" $setting) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.credentialsDir" -}}
/run/secrets/baton-jumpcloud
{{- end }}

{{- define "baton-jumpcloud.workdir" -}}
/var/lib/baton-jumpcloud
{{- end }}

{{- define "baton-jumpcloud.caDir" -}}
/etc/baton-jumpcloud
{{- end }}

{{/* A length of time such as 1m30s, in seconds. */}}
{{- define "baton-jumpcloud.seconds" -}}
{{- $units := dict "h" 3600 "m" 60 "s" 1 }}
{{- $seconds := 0 }}
{{- range regexFindAll "[0-9]+[hms]" . -1 }}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[hms]" .))) }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* A quantity of memory such as 512Mi, in MiB, rounded down. */}}
{{- define "baton-jumpcloud.mebibytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $text := toString . }}
{{- $factor := get $units (regexFind "[A-Za-z]*$" $text) | default 1 }}
{{- divf (mulf (regexFind "^[0-9.]+" $text | float64) $factor) 1048576 | floor | int64 }}
{{- end }}

{{/* Ten seconds are left for the end of the process; the program takes no more than an hour. */}}
{{- define "baton-jumpcloud.shutdownGrace" -}}
{{- .Values.config.shutdownGrace | default (printf "%ds" (sub (int64 .Values.terminationGracePeriodSeconds) 10 | min 3600)) }}
{{- end }}

{{/*
The variables that come of config: the key in capitals with underscores, after BATON_. Lists are joined by commas, and what is
null or empty is left to the program.
*/}}
{{- define "baton-jumpcloud.config" -}}
{{- $config := merge (dict "shutdownGrace" (include "baton-jumpcloud.shutdownGrace" .)) .Values.config }}
{{- $data := dict }}
{{- range $key, $value := $config }}
{{- if kindIs "slice" $value }}
{{- $value = join "," $value }}
{{- else if kindIs "float64" $value }}
{{- $value = int64 $value }}
{{- end }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
{{- $_ := set $data (snakecase $key | include "baton-jumpcloud.variable") (toString $value) }}
{{- end }}
{{- end }}
{{- toYaml $data }}
{{- end }}

{{/* The host and port of a URL or of host:port. */}}
{{- define "baton-jumpcloud.authority" -}}
{{- regexReplaceAll "^[a-z]+://" . "" | splitList "/" | first | splitList "@" | last }}
{{- end }}

{{- define "baton-jumpcloud.host" -}}
{{- regexReplaceAll ":[0-9]+$" (include "baton-jumpcloud.authority" .) "" }}
{{- end }}

{{- define "baton-jumpcloud.port" -}}
{{- $standard := hasPrefix "http://" . | ternary "80" "443" }}
{{- include "baton-jumpcloud.authority" . | regexFind ":[0-9]+$" | trimPrefix ":" | default $standard }}
{{- end }}

{{/*
"true" when an object of a custom API is wanted. Takes a dict: root, api, mode (a renderMode) and value (the name of that
value, for the message).
*/}}
{{- define "baton-jumpcloud.renders" -}}
{{- if or (eq .mode "alwaysRender") (.root.Capabilities.APIVersions.Has .api) }}true
{{- else if eq .mode "failIfMissing" }}
{{- fail (printf "\n\nThe cluster does not know %s. Install its CRDs (for helm template: --api-versions %s), or set %s to skipIfMissing or alwaysRender." .api .api .value) }}
{{- end }}
{{- end }}
