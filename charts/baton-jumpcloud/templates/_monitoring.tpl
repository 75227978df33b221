{{/* "true" when an object of the Prometheus operator is wanted. Takes a dict: root, and object (its values). */}}
{{- define "baton-jumpcloud.monitoring" -}}
{{- $metrics := .root.Values.metrics }}
{{- if and $metrics.enabled .object.enabled }}
{{- include "baton-jumpcloud.renders" (dict "root" .root "api" "monitoring.coreos.com/v1" "mode" $metrics.renderMode "value" "metrics.renderMode") }}
{{- end }}
{{- end }}

{{/* One endpoint of a PodMonitor or ServiceMonitor. Takes a dict: monitor (its values), and port. */}}
{{- define "baton-jumpcloud.endpoint" -}}
port: {{ .port }}
path: /metrics
{{- range $key := list "interval" "scrapeTimeout" "relabelings" "metricRelabelings" }}
{{- with get $.monitor $key }}
{{ toYaml (dict $key .) }}
{{- end }}
{{- end }}
{{- end }}
