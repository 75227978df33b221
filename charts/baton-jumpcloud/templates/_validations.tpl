{{/*
What the schema cannot say: rules over several values. Each check is a template of its own that writes a message or nothing; the
message says what to set. All messages come at once.
*/}}

{{- define "baton-jumpcloud.validate" -}}
{{- $messages := list }}
{{- range list "credentialsSource" "credentialsMode" "credentialsValues" "jumpcloudClientId" "secretNeeded" "budget" "hostId" "claim" "shutdownGrace" "credentialsInterval" "memory" "authorities" "proxy" "monitors" "serviceAccount" "token" "rbac" }}
{{- with include (printf "baton-jumpcloud.validate.%s" .) $ | trim }}
{{- $messages = append $messages (printf "- %s" .) }}
{{- end }}
{{- end }}
{{- with $messages }}
{{- fail (printf "\n\nThese values do not work:\n%s\n" (join "\n" .)) }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.credentialsSource" -}}
{{- $credentials := .Values.credentials }}
{{- $sources := compact (list (ternary "credentials.create" "" $credentials.create) (ternary "" "credentials.existingSecret" (empty $credentials.existingSecret)) (ternary "" "credentials.volume" (empty $credentials.volume))) }}
{{- if not $sources }}
No credentials: set credentials.existingSecret to the name of a Secret with the keys BATON_CLIENT_ID, BATON_CLIENT_SECRET and BATON_API_KEY.
{{- else if gt (len $sources) 1 }}
More than one source of credentials ({{ join ", " $sources }}): keep one of them.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.credentialsMode" -}}
{{- if and .Values.credentials.volume (eq .Values.credentials.mode "env") }}
credentials.mode env needs a Secret, and credentials.volume is none: set credentials.mode to file.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.credentialsValues" -}}
{{- if .Values.credentials.create }}
{{- $wanted := list "clientId" "clientSecret" "apiKey" }}
{{- if eq .Values.credentials.jumpcloudAuth "serviceAccount" }}
{{- $wanted = list "clientId" "clientSecret" "jumpcloudClientSecret" }}
{{- end }}
{{- $missing := list }}
{{- range $wanted }}
{{- if not (get $.Values.credentials.values .) }}
{{- $missing = append $missing (printf "credentials.values.%s" .) }}
{{- end }}
{{- end }}
{{- with $missing }}
credentials.create needs {{ join ", " . }}.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.jumpcloudClientId" -}}
{{- $credentials := .Values.credentials }}
{{- if and (eq $credentials.jumpcloudAuth "serviceAccount") (not .Values.config.jumpcloudClientId) }}
{{- if or $credentials.volume (and $credentials.create (not $credentials.values.jumpcloudClientId)) }}
A JumpCloud service account needs its client id: set config.jumpcloudClientId.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.secretNeeded" -}}
{{- if .Values.credentials.volume }}
{{- if .Values.kubernetes.secretWatch.enabled }}
kubernetes.secretWatch needs a Secret, and credentials.volume is none: set credentials.existingSecret instead.
{{- end }}
{{- if .Values.reloader.enabled }}
reloader needs a Secret, and credentials.volume is none: set credentials.existingSecret instead.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.budget" -}}
{{- $budget := .Values.podDisruptionBudget }}
{{- $replicas := int .Values.replicaCount }}
{{- if and $budget.enabled $replicas }}
{{- if kindIs "invalid" $budget.minAvailable }}
{{- if has (toString $budget.maxUnavailable) (list "0" "0%") }}
podDisruptionBudget.maxUnavailable {{ $budget.maxUnavailable }} blocks every drain of a node: set it to 1.
{{- end }}
{{- else }}
{{- $kept := toString $budget.minAvailable }}
{{- if hasSuffix "%" $kept }}
{{- $kept = divf (mulf (trimSuffix "%" $kept | float64) $replicas) 100 | ceil }}
{{- end }}
{{- if ge (int $kept) $replicas }}
podDisruptionBudget.minAvailable {{ $budget.minAvailable }} of {{ $replicas }} blocks every drain of a node: set maxUnavailable to 1 instead, or raise replicaCount.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.hostId" -}}
{{- if and .Values.config.hostId (gt (int .Values.replicaCount) 1) }}
config.hostId would name {{ int .Values.replicaCount }} replicas alike: leave it out, and each has the name of its pod.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.claim" -}}
{{- if .Values.workdir.existingClaim }}
{{- if gt (int .Values.replicaCount) 1 }}
workdir.existingClaim is for one pod, and replicaCount is {{ int .Values.replicaCount }}: set replicaCount to 1, or leave the claim out.
{{- end }}
{{- if eq (.Values.strategy.type | default "Recreate") "RollingUpdate" }}
workdir.existingClaim is for one pod at a time, and a rolling update starts the next one before the last one ends: leave strategy out, or set its type to Recreate.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.shutdownGrace" -}}
{{- $grace := include "baton-jumpcloud.shutdownGrace" . }}
{{- $seconds := include "baton-jumpcloud.seconds" $grace | int }}
{{- if or (lt $seconds 1) (gt $seconds 3600) }}
config.shutdownGrace {{ $grace }} is not from 1s to 1h.
{{- else if ge $seconds (int .Values.terminationGracePeriodSeconds) }}
terminationGracePeriodSeconds {{ int .Values.terminationGracePeriodSeconds }} is not longer than config.shutdownGrace {{ $grace }}, so running tasks would be killed: raise the first or lower the second.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.credentialsInterval" -}}
{{- with .Values.config.credentialsInterval }}
{{- $seconds := include "baton-jumpcloud.seconds" . | int }}
{{- if or (lt $seconds 1) (gt $seconds 300) }}
config.credentialsInterval {{ . }} is not from 1s to 5m.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.memory" -}}
{{- with (.Values.resources.limits | default dict).memory }}
{{- if lt (include "baton-jumpcloud.mebibytes" . | int) 128 }}
resources.limits.memory {{ . }} is less than a sync needs: set 128Mi or more.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.authorities" -}}
{{- range $name, $ca := dict "tls.extraCa" .Values.tls.extraCa "otlp.ca" .Values.otlp.ca }}
{{- if and $ca.configMap $ca.secret }}
{{ $name }} names both a ConfigMap and a Secret: keep one of them.
{{- end }}
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.proxy" -}}
{{- if and .Values.proxy.existingSecret (or .Values.proxy.httpsProxy .Values.proxy.httpProxy) }}
proxy.existingSecret and proxy.httpsProxy or proxy.httpProxy: keep one of them.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.monitors" -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled }}
metrics.podMonitor and metrics.serviceMonitor would read everything twice: enable one of them.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.serviceAccount" -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}
serviceAccount.create is false: name the one to use in serviceAccount.name.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.token" -}}
{{- if and (include "baton-jumpcloud.needsApiServer" .) (eq (include "baton-jumpcloud.automount" .) "false") }}
A part of kubernetes is enabled, and serviceAccount.automount false keeps the token from it: leave serviceAccount.automount out.
{{- end }}
{{- end }}

{{- define "baton-jumpcloud.validate.rbac" -}}
{{- if and (include "baton-jumpcloud.needsApiServer" .) (not .Values.rbac.create) .Values.serviceAccount.create }}
Leader election, Events and the watch on the Secret need a Role: set rbac.create to true, or bring a service account that has the rights (serviceAccount.create false and serviceAccount.name).
{{- end }}
{{- end }}
