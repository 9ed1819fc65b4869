{{- define "woodfrog.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "woodfrog.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Names of things that are not in a namespace carry the release's: two releases of one name are two installations. */}}
{{- define "woodfrog.clusterName" -}}
{{- if eq (include "woodfrog.fullname" .) .Release.Namespace -}}
{{- include "woodfrog.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "woodfrog.fullname" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "woodfrog.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "woodfrog.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Call with (list $ "component"). */}}
{{- define "woodfrog.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "woodfrog.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Call with (list $ image). What the image leaves empty is the control plane's. */}}
{{- define "woodfrog.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $standard := $root.Values.images.controlplane -}}
{{- $named := ternary $image $standard (ne $image.repository "") -}}
{{- if $named.digest -}}
{{- printf "%s@%s" $named.repository $named.digest -}}
{{- else -}}
{{- printf "%s:%s" $named.repository (default $root.Chart.AppVersion $named.tag) -}}
{{- end -}}
{{- end }}

{{- define "woodfrog.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where pods go. Call with the values of a component. */}}
{{- define "woodfrog.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Pods of a component on different nodes, as far as there are nodes. Call with (list $ "component"). */}}
{{- define "woodfrog.apart" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "woodfrog.selector" . | nindent 14 }}
{{- end }}

{{- define "woodfrog.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "woodfrog.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "woodfrog.controlplane.serviceAccount" -}}
{{- default (ternary (printf "%s-controlplane" (include "woodfrog.fullname" .)) "default" .Values.controlplane.serviceAccount.create) .Values.controlplane.serviceAccount.name -}}
{{- end }}

{{- define "woodfrog.node.serviceAccount" -}}
{{- default (ternary (printf "%s-node" (include "woodfrog.fullname" .)) "default" .Values.node.serviceAccount.create) .Values.node.serviceAccount.name -}}
{{- end }}

{{/* The Secret with the text that NATS's keys are derived from, and the passwords of route and, without tokens, of nodes. */}}
{{- define "woodfrog.nats.secret" -}}
{{- default (printf "%s-nats" (include "woodfrog.fullname" .)) .Values.nats.existingSecret -}}
{{- end }}

{{- define "woodfrog.nats.host" -}}
{{ include "woodfrog.fullname" . }}-nats.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Whether node workers prove themselves by their pods' tokens. */}}
{{- define "woodfrog.nats.nodeTokens" -}}
{{- if and .Values.nats.enabled .Values.nats.nodeTokens -}}yes{{- end -}}
{{- end }}

{{/* The text from which NATS's keys are derived. */}}
{{- define "woodfrog.nats.calloutEnv" -}}
- name: WOODFROG_NATS_CALLOUT_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ include "woodfrog.nats.secret" . }}
      key: callout
{{- end }}

{{/* Whether the chart's NATS encrypts. */}}
{{- define "woodfrog.nats.tls" -}}
{{- if and .Values.nats.enabled .Values.nats.tls.enabled -}}yes{{- end -}}
{{- end }}

{{/* The Secret with the certificate of the chart's NATS. */}}
{{- define "woodfrog.nats.tlsSecret" -}}
{{- default (printf "%s-nats-tls" (include "woodfrog.fullname" .)) .Values.nats.tls.existingSecret -}}
{{- end }}

{{/* The names by which NATS's servers are reached: by clients, by one another, and through a forwarded port. */}}
{{- define "woodfrog.nats.names" -}}
{{- $name := printf "%s-nats" (include "woodfrog.fullname" .) -}}
{{- $space := .Release.Namespace -}}
{{- toYaml (list (printf "%s.%s.svc" $name $space) (printf "%s.%s.svc.cluster.local" $name $space) (printf "%s.%s" $name $space) $name (printf "*.%s-peers.%s.svc" $name $space) "localhost") -}}
{{- end }}

{{/*
The CA and the certificate of the chart's NATS: those that are there, or new ones. A certificate is good for five years and is
renewed by an upgrade after one; a CA is good for ten and is renewed after five, and the one before stays trusted beside it.
*/}}
{{- define "woodfrog.nats.certificate" -}}
{{- $name := printf "%s-nats" (include "woodfrog.fullname" .) -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $names := include "woodfrog.nats.names" . | fromYamlArray -}}
{{- $oldCa := lookup "v1" "Secret" .Release.Namespace (printf "%s-ca-key" $name) | default dict -}}
{{- $oldTls := lookup "v1" "Secret" .Release.Namespace (printf "%s-tls" $name) | default dict -}}
{{- $caMade := dig "metadata" "annotations" "woodfrog.io/made-at" "0" $oldCa | int64 -}}
{{- $tlsMade := dig "metadata" "annotations" "woodfrog.io/made-at" "0" $oldTls | int64 -}}
{{- $keepCa := and $oldCa.data (lt (sub $now $caMade) 157680000) -}}
{{- $keep := and $keepCa $oldTls.data (lt (sub $now $tlsMade) 31536000) (eq (join " " $names) (dig "metadata" "annotations" "woodfrog.io/names" "" $oldTls)) -}}
{{- $ca := dict -}}
{{- $bundle := "" -}}
{{- if $keepCa -}}
{{- $ca = buildCustomCert (index $oldCa.data "ca.crt") (index $oldCa.data "ca.key") -}}
{{- $bundle = index $oldCa.data "bundle.crt" -}}
{{- else -}}
{{- $ca = genCAWithKey (printf "%s CA" $name) 3650 (genPrivateKey "ecdsa") -}}
{{- $before := ternary (dig "data" "ca.crt" "" $oldCa | b64dec) "" (not (empty $oldCa)) -}}
{{- $bundle = printf "%s%s" $ca.Cert $before | b64enc -}}
{{- end -}}
ca:
  crt: {{ $ca.Cert | b64enc }}
  key: {{ $ca.Key | b64enc }}
  bundle: {{ $bundle }}
  madeAt: {{ ternary $caMade $now (not (not $keepCa)) | quote }}
tls:
  names: {{ join " " $names | quote }}
{{- if $keep }}
  crt: {{ index $oldTls.data "tls.crt" }}
  key: {{ index $oldTls.data "tls.key" }}
  madeAt: {{ $tlsMade | quote }}
{{- else }}
{{- $certificate := genSignedCertWithKey $name (list "127.0.0.1") $names 1825 $ca (genPrivateKey "ecdsa") }}
  crt: {{ $certificate.Cert | b64enc }}
  key: {{ $certificate.Key | b64enc }}
  madeAt: {{ $now | quote }}
{{- end }}
{{- end }}

{{/* The Secret with the CA that vouches for NATS; empty: the system's CAs do. */}}
{{- define "woodfrog.nats.caSecret" -}}
{{- $tls := .Values.nats.tls -}}
{{- if not $tls.enabled -}}
{{- else if $tls.caSecret -}}{{- $tls.caSecret -}}
{{- else if $tls.existingSecret -}}{{- $tls.existingSecret -}}
{{- else if not .Values.nats.enabled -}}
{{- else if $tls.certManager.issuerRef -}}{{- include "woodfrog.nats.tlsSecret" . -}}
{{- else -}}{{- include "woodfrog.fullname" . }}-nats-ca
{{- end -}}
{{- end }}

{{/* Whether node workers of an earlier version, which know no TLS, are let in: "yes", or nothing. */}}
{{- define "woodfrog.nats.allowPlain" -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-nats" (include "woodfrog.fullname" .)) | default dict -}}
{{- $was := dig "metadata" "annotations" "woodfrog.io/nats-tls" "off" $there -}}
{{- if eq "always" .Values.nats.tls.allowPlain -}}yes
{{- else if or (eq "never" .Values.nats.tls.allowPlain) (not $there) (eq "required" $was) -}}
{{- else if eq "off" $was -}}yes
{{- else -}}
{{- $workers := lookup "apps/v1" "DaemonSet" .Release.Namespace (printf "%s-node" (include "woodfrog.fullname" .)) | default dict -}}
{{- $seen := eq (dig "metadata" "generation" 0 $workers | int64) (dig "status" "observedGeneration" -1 $workers | int64) -}}
{{- $all := eq (dig "status" "updatedNumberScheduled" 0 $workers | int64) (dig "status" "desiredNumberScheduled" -1 $workers | int64) -}}
{{- if not (and $seen $all) -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{/* How a connection to NATS is protected. */}}
{{- define "woodfrog.nats.trustEnv" -}}
{{- if include "woodfrog.nats.caSecret" . -}}
- name: WOODFROG_NATS_CA_FILE
  value: /var/run/secrets/woodfrog-nats/ca.crt
{{- else if not .Values.nats.tls.enabled -}}
- name: WOODFROG_NATS_INSECURE
  value: "on"
{{- end }}
{{- end }}

{{- define "woodfrog.nats.caMount" -}}
{{- if include "woodfrog.nats.caSecret" . -}}
- name: nats-ca
  mountPath: /var/run/secrets/woodfrog-nats
  readOnly: true
{{- end }}
{{- end }}

{{- define "woodfrog.nats.caVolume" -}}
{{- with include "woodfrog.nats.caSecret" . -}}
- name: nats-ca
  secret:
    secretName: {{ . }}
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end }}

{{- define "woodfrog.nats.url" -}}
{{ ternary "tls" "nats" (eq "yes" (include "woodfrog.nats.tls" .)) }}://
{{- end }}

{{/* How a process reaches NATS. Call with (list $ user). */}}
{{- define "woodfrog.nats.env" -}}
{{- $root := index . 0 -}}
{{- $user := index . 1 -}}
{{- $scheme := include "woodfrog.nats.url" $root -}}
{{- if not $root.Values.nats.enabled -}}
{{- if $root.Values.nats.existingSecret -}}
- name: WOODFROG_NATS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.nats.existingSecret }}
      key: {{ $user }}
{{- else -}}
- name: WOODFROG_NATS_URL
  value: {{ $root.Values.nats.url | quote }}
{{- end }}
{{- else if eq $user "node" -}}
{{- if $root.Values.nats.nodeTokens -}}
- name: WOODFROG_NATS_URL
  value: {{ $scheme }}{{ include "woodfrog.nats.host" $root }}:4222
- name: WOODFROG_NATS_TOKEN_FILE
  value: /var/run/secrets/woodfrog/token
{{- else -}}
- name: NATS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "woodfrog.nats.secret" $root }}
      key: {{ $user }}
- name: WOODFROG_NATS_URL
  value: {{ $scheme }}{{ $user }}:$(NATS_PASSWORD)@{{ include "woodfrog.nats.host" $root }}:4222
{{- end }}
{{- else -}}
- name: WOODFROG_NATS_URL
  value: {{ $scheme }}{{ include "woodfrog.nats.host" $root }}:4222
- name: WOODFROG_NATS_SEED_FILE
  value: /run/woodfrog-callout/{{ $user }}.seed
{{- end }}
{{ include "woodfrog.nats.trustEnv" $root }}
{{- end }}

{{/* Whether the cluster, if there is one to ask, makes volumes by itself: "yes", "no", or "unknown". */}}
{{- define "woodfrog.makesVolumes" -}}
{{- $classes := (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
{{- if not (lookup "v1" "Namespace" "" "kube-system") -}}
unknown
{{- else -}}
{{- $standard := list -}}
{{- range $classes -}}
{{- if eq "true" (dig "annotations" "storageclass.kubernetes.io/is-default-class" "" .metadata) -}}
{{- $standard = append $standard .metadata.name -}}
{{- end -}}
{{- end -}}
{{- ternary "yes" "no" (gt (len $standard) 0) -}}
{{- end -}}
{{- end }}

{{/* What holds the SQLite log: persistentVolumeClaim, hostPath or emptyDir. Once chosen, an upgrade keeps to it. */}}
{{- define "woodfrog.sqlite.volume" -}}
{{- $said := .Values.database.sqlite.volume -}}
{{- if ne $said "auto" -}}
{{- $said -}}
{{- else if or .Values.database.sqlite.existingClaim .Values.database.sqlite.storageClassName -}}
persistentVolumeClaim
{{- else -}}
{{- $there := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-controlplane" (include "woodfrog.fullname" .)) -}}
{{- $kept := dig "metadata" "annotations" "woodfrog.io/log-volume" "" (default dict $there) -}}
{{- $kept | default (ternary "hostPath" "persistentVolumeClaim" (eq "no" (include "woodfrog.makesVolumes" .))) -}}
{{- end -}}
{{- end }}

{{/* The node that a log on a hostPath lies on; empty if there is no cluster to ask. Once chosen, an upgrade keeps to it. */}}
{{- define "woodfrog.sqlite.node" -}}
{{- if .Values.database.sqlite.hostPath.node -}}
{{- .Values.database.sqlite.hostPath.node -}}
{{- else -}}
{{- $there := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-controlplane" (include "woodfrog.fullname" .)) -}}
{{- $kept := dig "metadata" "annotations" "woodfrog.io/log-node" "" (default dict $there) -}}
{{- if $kept -}}
{{- $kept -}}
{{- else -}}
{{- $fit := list -}}
{{- range (lookup "v1" "Node" "" "").items -}}
{{- $node := . -}}
{{- $usable := not (dig "spec" "unschedulable" false .) -}}
{{- range (dig "spec" "taints" list .) -}}
{{- if ne "PreferNoSchedule" .effect -}}{{- $usable = false -}}{{- end -}}
{{- end -}}
{{- range $key, $value := $.Values.controlplane.nodeSelector -}}
{{- if ne $value (dig "metadata" "labels" $key "" $node) -}}{{- $usable = false -}}{{- end -}}
{{- end -}}
{{- range (dig "status" "conditions" list .) -}}
{{- if and (eq "Ready" .type) (ne "True" .status) -}}{{- $usable = false -}}{{- end -}}
{{- end -}}
{{- if $usable -}}
{{- $fit = append $fit (dig "metadata" "labels" "kubernetes.io/hostname" .metadata.name .) -}}
{{- end -}}
{{- end -}}
{{- if $fit -}}{{- first (sortAlpha $fit) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether a log in SQLite is to be carried over into PostgreSQL: "yes", or nothing once that is done. */}}
{{- define "woodfrog.sqlite.moves" -}}
{{- if and .Values.database.existingSecret .Values.database.moveFromSqlite -}}
{{- $there := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-controlplane" (include "woodfrog.fullname" .)) | default dict -}}
{{- $kept := dig "metadata" "annotations" "woodfrog.io/log-volume" "" $there -}}
{{- $volume := include "woodfrog.sqlite.volume" . -}}
{{- if and (not $there) (eq "auto" .Values.database.sqlite.volume) -}}
{{- fail "database.moveFromSqlite: there is no installation here whose log is in SQLite. For the first installation leave the value out; where Helm cannot look at the cluster, say by database.sqlite where the log lies" -}}
{{- end -}}
{{- if and $kept (gt (int $there.spec.replicas) 0) -}}
{{- fail (printf "database.moveFromSqlite: the control plane still writes to SQLite. Stop it, then upgrade: kubectl scale deployment/%s --replicas=0 -n %s" $there.metadata.name .Release.Namespace) -}}
{{- end -}}
{{- if and (or $kept (ne "auto" .Values.database.sqlite.volume)) (eq "emptyDir" $volume) -}}
{{- fail "database.moveFromSqlite: the log is on an emptyDir, which goes with its pod: there is nothing that could be carried over" -}}
{{- end -}}
{{- if or $kept (ne "auto" .Values.database.sqlite.volume) -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{/* The volume on which SQLite's log lies. */}}
{{- define "woodfrog.sqlite.source" -}}
{{- if eq "hostPath" (include "woodfrog.sqlite.volume" .) -}}
hostPath:
  path: {{ .Values.database.sqlite.hostPath.path }}
  type: DirectoryOrCreate
{{- else if eq "persistentVolumeClaim" (include "woodfrog.sqlite.volume" .) -}}
persistentVolumeClaim:
  claimName: {{ default (printf "%s-log" (include "woodfrog.fullname" .)) .Values.database.sqlite.existingClaim }}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end }}

{{/* What holds NATS's streams: persistentVolumeClaim or emptyDir. Once chosen, an upgrade keeps to it. */}}
{{- define "woodfrog.nats.volume" -}}
{{- $said := .Values.nats.volume -}}
{{- if ne $said "auto" -}}
{{- $said -}}
{{- else if .Values.nats.storageClassName -}}
persistentVolumeClaim
{{- else -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-nats" (include "woodfrog.fullname" .)) -}}
{{- $kept := dig "metadata" "annotations" "woodfrog.io/streams-volume" "" (default dict $there) -}}
{{- $kept | default (ternary "emptyDir" "persistentVolumeClaim" (eq "no" (include "woodfrog.makesVolumes" .))) -}}
{{- end -}}
{{- end }}

{{- define "woodfrog.store.url" -}}
{{- $store := .Values.store -}}
{{- $prefix := ternary (printf "/%s" (trimAll "/" $store.prefix)) "" (ne "" $store.prefix) -}}
{{- if eq $store.type "hostPath" -}}file://{{ $store.hostPath.path }}
{{- else if eq $store.type "persistentVolumeClaim" -}}file:///store
{{- else -}}{{ get (dict "s3" "s3" "gcs" "gs" "azure" "az") $store.type }}://{{ $store.bucket }}{{ $prefix }}
{{- end -}}
{{- end }}

{{/*
Whether the chart makes the store's key: "yes", or nothing. By itself it does so for buckets, where there is a cluster to keep it
in, and never for an installation that stores without one: of its workers, those without the key could not restore what the others
store until all are replaced.
*/}}
{{- define "woodfrog.store.generates" -}}
{{- $said := .Values.store.encryption -}}
{{- if $said.existingSecret -}}
{{- else if ne "auto" (toString $said.generate) -}}{{- if $said.generate -}}yes{{- end -}}
{{- else if and (has .Values.store.type (list "s3" "gcs" "azure")) (lookup "v1" "Namespace" "" "kube-system") -}}
{{- $name := include "woodfrog.fullname" . -}}
{{- $workers := lookup "apps/v1" "DaemonSet" .Release.Namespace (printf "%s-node" $name) -}}
{{- $key := lookup "v1" "Secret" .Release.Namespace (printf "%s-store-key" $name) -}}
{{- if or $key (not $workers) -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secrets with the private and the public key for snapshots' own keys; empty: snapshots have none. */}}
{{- define "woodfrog.dataKey.secret" -}}
{{- $said := .Values.store.encryption.perSnapshotKeys -}}
{{- if $said.enabled -}}{{- default (printf "%s-data-key" (include "woodfrog.fullname" .)) $said.existingSecret -}}{{- end -}}
{{- end }}

{{- define "woodfrog.dataKey.recipient" -}}
{{- $said := .Values.store.encryption.perSnapshotKeys -}}
{{- if $said.enabled -}}{{- default (printf "%s-data-key-recipient" (include "woodfrog.fullname" .)) $said.recipientSecret -}}{{- end -}}
{{- end }}

{{- define "woodfrog.store.keySecret" -}}
{{- if .Values.store.encryption.existingSecret -}}{{- .Values.store.encryption.existingSecret -}}
{{- else if include "woodfrog.store.generates" . -}}{{- include "woodfrog.fullname" . }}-store-key
{{- end -}}
{{- end }}

{{- define "woodfrog.store.keyName" -}}
{{- ternary .Values.store.encryption.existingSecretKey "key" (ne "" .Values.store.encryption.existingSecret) -}}
{{- end }}

{{- define "woodfrog.apiVersion.policy" -}}
{{- ternary "policy/v1" "policy/v1beta1" (and (.Capabilities.APIVersions.Has "policy/v1") (semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version)) -}}
{{- end }}

{{- define "woodfrog.apiVersion.runtimeClass" -}}
{{- ternary "node.k8s.io/v1" "node.k8s.io/v1beta1" (and (.Capabilities.APIVersions.Has "node.k8s.io/v1") (semverCompare ">=1.20-0" .Capabilities.KubeVersion.Version)) -}}
{{- end }}

{{/* What cannot work together is refused before anything is made. */}}
{{- define "woodfrog.check" -}}
{{- if and (not .Values.database.existingSecret) (gt (int .Values.controlplane.replicas) 1) -}}
{{- fail (printf "controlplane.replicas is %d, but the log is in SQLite, which one pod alone can use: set database.existingSecret to a Secret with the URL of a PostgreSQL, or controlplane.replicas to 1" (int .Values.controlplane.replicas)) -}}
{{- end -}}
{{- if and .Values.api.enabled (not .Values.api.kubernetes) (not .Values.api.tokensSecret) -}}
{{- fail "api.enabled is true, but nobody could ask: set api.kubernetes to true, or api.tokensSecret to a Secret with the key tokens" -}}
{{- end -}}
{{- if and (not .Values.nats.enabled) (not .Values.nats.url) (not .Values.nats.existingSecret) -}}
{{- fail "nats.enabled is false: say where NATS is, by nats.url, or by nats.existingSecret with URLs under the keys control, operator and node" -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.url -}}
{{- fail "nats.url is for a NATS of your own: set nats.enabled to false as well" -}}
{{- end -}}
{{- if and (not .Values.nats.enabled) .Values.nats.tls.enabled -}}
{{- $theirs := (lookup "v1" "Secret" .Release.Namespace .Values.nats.existingSecret | default dict).data | default dict -}}
{{- $urls := list .Values.nats.url (get $theirs "control" | b64dec) (get $theirs "node" | b64dec) -}}
{{- range $urls -}}
{{- if and (hasPrefix "nats://" .) (contains "@" .) -}}
{{- fail "your NATS is reached by a nats:// URL with a password, which would be sent in the clear: use tls:// (and nats.tls.caSecret), or set nats.tls.enabled to false to have it sent all the same" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.existingSecret -}}
{{- $theirs := (lookup "v1" "Secret" .Release.Namespace .Values.nats.existingSecret | default dict).data -}}
{{- if and $theirs (not (get $theirs "callout")) -}}
{{- fail (printf "nats.existingSecret: the Secret %s lacks the key callout, a random text of 32 characters or more, from which NATS's keys are derived" .Values.nats.existingSecret) -}}
{{- end -}}
{{- end -}}
{{- if and (has .Values.store.type (list "s3" "gcs" "azure")) (not .Values.store.bucket) -}}
{{- fail (printf "store.type is %s: set store.bucket" .Values.store.type) -}}
{{- end -}}
{{- if and (eq .Values.store.type "persistentVolumeClaim") (not .Values.store.persistentVolumeClaim.existingClaim) -}}
{{- fail "store.type is persistentVolumeClaim: set store.persistentVolumeClaim.existingClaim to a claim that every node can mount at once (ReadWriteMany)" -}}
{{- end -}}
{{- with .Values.store.encryption.perSnapshotKeys -}}
{{- if and .enabled (not (include "woodfrog.store.keySecret" $)) -}}
{{- fail "store.encryption.perSnapshotKeys needs the store's key as well: set store.encryption.generate or store.encryption.existingSecret" -}}
{{- end -}}
{{- if and .enabled (ne (empty .existingSecret) (empty .recipientSecret)) -}}
{{- fail "store.encryption.perSnapshotKeys: set existingSecret and recipientSecret, or neither" -}}
{{- end -}}
{{- if and .enabled (not .existingSecret) (not (lookup "v1" "Namespace" "" "kube-system")) -}}
{{- fail "store.encryption.perSnapshotKeys: Helm cannot look at the cluster, so every rendering would make another key, and no snapshot could be read: set existingSecret and recipientSecret" -}}
{{- end -}}
{{- end -}}
{{- if eq (int .Values.node.httpPort) (int .Values.node.probePort) -}}
{{- fail "node.probePort must not be node.httpPort: the kubelet's probes have a port of their own" -}}
{{- end -}}
{{- if and .Values.store.encryption.existingSecret (eq "true" (toString .Values.store.encryption.generate)) -}}
{{- fail "store.encryption: either existingSecret or generate, not both" -}}
{{- end -}}
{{- end }}

{{- define "woodfrog.sqlite.url" -}}
sqlite+aiosqlite:////var/lib/woodfrog/log.db
{{- end }}

{{- define "woodfrog.controlplane.databaseEnv" -}}
- name: WOODFROG_DATABASE_URL
{{- if .Values.database.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.existingSecretKey }}
{{- else }}
  value: {{ include "woodfrog.sqlite.url" . }}
{{- end }}
{{- end }}

{{- define "woodfrog.database.caEnv" -}}
{{- if and .Values.database.existingSecret .Values.database.caSecret -}}
- name: PGSSLROOTCERT
  value: /var/run/secrets/woodfrog-database/ca.crt
{{- end }}
{{- end }}

{{- define "woodfrog.database.caMount" -}}
{{- if and .Values.database.existingSecret .Values.database.caSecret -}}
- name: database-ca
  mountPath: /var/run/secrets/woodfrog-database
  readOnly: true
{{- end }}
{{- end }}

{{- define "woodfrog.database.caVolume" -}}
{{- if and .Values.database.existingSecret .Values.database.caSecret -}}
- name: database-ca
  secret:
    secretName: {{ .Values.database.caSecret }}
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end }}

{{/* What a node's worker is told. It runs among the host's mounts; volumes of the pod that a variable names come along. */}}
{{- define "woodfrog.node.env" -}}
- name: WOODFROG_NODE
  valueFrom:
    fieldRef: {fieldPath: spec.nodeName}
- name: WOODFROG_POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: WOODFROG_CLUSTER
  value: {{ .Values.cluster | quote }}
- name: WOODFROG_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{ include "woodfrog.nats.env" (list . "node") }}
- name: WOODFROG_STORE_URL
  value: {{ include "woodfrog.store.url" . | quote }}
{{- if eq .Values.store.type "s3" }}
{{- with .Values.store.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- if hasPrefix "http://" . }}
- name: AWS_ALLOW_HTTP
  value: "true"
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .Values.store.type "azure") .Values.store.account }}
- name: AZURE_STORAGE_ACCOUNT_NAME
  value: {{ .Values.store.account | quote }}
{{- end }}
{{- if include "woodfrog.store.keySecret" . }}
- name: WOODFROG_STORE_KEY_FILE
  value: /etc/woodfrog/store-key/key
{{- end }}
{{- if include "woodfrog.dataKey.recipient" . }}
- name: WOODFROG_DATA_KEY_RECIPIENT_FILE
  value: /etc/woodfrog/data-key/recipient.pem
{{- end }}
- name: WOODFROG_HTTP_ADDRESS
  value: ":{{ .Values.node.httpPort }}"
- name: WOODFROG_PROBE_ADDRESS
  value: "127.0.0.1:{{ .Values.node.probePort }}"
- name: WOODFROG_CREATE_LIMIT_SECONDS
  value: {{ .Values.node.createLimitSeconds | quote }}
- name: WOODFROG_STOP_LIMIT_SECONDS
  value: {{ .Values.node.stopLimitSeconds | quote }}
{{- with .Values.node.dumpsAtOnce }}
- name: WOODFROG_DUMPS_AT_ONCE
  value: {{ . | quote }}
{{- end }}
- name: WOODFROG_STORE_ATTEMPTS
  value: {{ .Values.node.storeAttempts | quote }}
- name: WOODFROG_PRIVILEGES
  value: {{ .Values.node.privileges | quote }}
- name: WOODFROG_FILES_LIMIT
  value: {{ .Values.node.limits.files | int64 | quote }}
- name: WOODFROG_SPARSE_LIMIT
  value: {{ .Values.node.limits.sparse | quote }}
- name: WOODFROG_LIMIT_LAYER
  value: {{ .Values.node.limits.layer | ternary "on" "off" | quote }}
- name: WOODFROG_FREEZE_LIMIT
  value: {{ .Values.node.limits.freeze | quote }}
- name: WOODFROG_RESTORE_LIMIT
  value: {{ .Values.node.limits.restore | quote }}
- name: WOODFROG_SPOOL_FLOOR
  value: {{ .Values.node.limits.spoolFloor | quote }}
- name: WOODFROG_PREFETCHES_AT_ONCE
  value: {{ .Values.node.limits.prefetches | quote }}
- name: WOODFROG_DISK_LIMIT
  value: {{ .Values.node.limits.disk | quote }}
- name: WOODFROG_COPIES
  value: {{ .Values.node.copies.size | quote }}
- name: WOODFROG_COPIES_AGE
  value: {{ .Values.node.copies.age | quote }}
- name: WOODFROG_COPIES_SPARE_PERCENT
  value: {{ .Values.node.copies.sparePercent | quote }}
- name: WOODFROG_REHEARSE
  value: {{ .Values.node.rehearse.snapshots | quote }}
- name: WOODFROG_REHEARSE_MEMORY
  value: {{ .Values.node.rehearse.memory | quote }}
- name: WOODFROG_REHEARSE_LIMIT
  value: {{ .Values.node.rehearse.limit | quote }}
{{- with .Values.node.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "woodfrog.node.host" -}}
hostPID: true
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
enableServiceLinks: false
{{- end }}
