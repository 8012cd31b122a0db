# The trainer's worker hands trainings over with kubectl:
#   docker build -f deploy/kubernetes/trainer-kubectl.Dockerfile -t yuan-trainer-kubectl .
ARG TRAINER=yuan-trainer:latest
FROM registry.k8s.io/kubectl:v1.34.1 AS kubectl
FROM ${TRAINER}
COPY --from=kubectl /bin/kubectl /usr/local/bin/kubectl
