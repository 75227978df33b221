{{/* Where the daemon goes, for both flavours of the network policy: a list of host (or pattern) and port. */}}
{{- define "baton-jumpcloud.destinations" -}}
{{- $config := .Values.config }}
{{- $region := has $config.region (list "eu" "in") | ternary (printf "%s." $config.region) "" }}
{{- $urls := list }}
{{- if $config.c1ApiHost }}
{{- $urls = append $urls $config.c1ApiHost }}
{{- else }}
{{- $urls = concat $urls (list "*.conductor.one" "*.conductorone.com") }}
{{- end }}
{{- $urls = append $urls ($config.baseUrl | default (printf "console.%sjumpcloud.com" $region)) }}
{{- $urls = append $urls ($config.insightsUrl | default (printf "api.%sjumpcloud.com" $region)) }}
{{- if eq .Values.credentials.jumpcloudAuth "serviceAccount" }}
{{- $urls = append $urls ($config.jumpcloudTokenUrl | default (printf "admin-oauth.id.%sjumpcloud.com" $region)) }}
{{- end }}
{{- range compact (list .Values.proxy.httpsProxy .Values.proxy.httpProxy .Values.otlp.endpoint) | uniq }}
{{- $urls = append $urls . }}
{{- end }}
{{- range $urls }}
- host: {{ include "baton-jumpcloud.host" . | quote }}
  port: {{ include "baton-jumpcloud.port" . }}
{{- end }}
{{- end }}

{{/* "true" when somebody may read the metrics through the policy. */}}
{{- define "baton-jumpcloud.metricsReaders" -}}
{{- if and .Values.metrics.enabled .Values.networkPolicy.ingress }}true{{ end }}
{{- end }}

{{/*
The peers of networkPolicy.ingress as labels of Cilium, so that the value means the same in both flavours. A peer without a
namespaceSelector is in the namespace of the policy, which is Cilium's rule too.
*/}}
{{- define "baton-jumpcloud.ciliumPeers" -}}
{{- range .Values.networkPolicy.ingress }}
{{- $labels := dict }}
{{- range $key, $value := ((.namespaceSelector | default dict).matchLabels | default dict) }}
{{- $name := eq $key "kubernetes.io/metadata.name" | ternary "io.kubernetes.pod.namespace" (printf "io.cilium.k8s.namespace.labels.%s" $key) }}
{{- $_ := set $labels (printf "k8s:%s" $name) $value }}
{{- end }}
{{- range $key, $value := ((.podSelector | default dict).matchLabels | default dict) }}
{{- $_ := set $labels (printf "k8s:%s" $key) $value }}
{{- end }}
- matchLabels: {{- toYaml $labels | nindent 4 }}
{{- end }}
{{- end }}
