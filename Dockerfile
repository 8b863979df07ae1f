# The image of Beam's workers (Dataflow, Flink, Spark): Beam's SDK container with this project in it.
#
#   docker build --build-arg EXTRAS=[gcs] -t REGISTRY/tutelage:0.1.0 .
#
# Python and Beam must be those of the machine that starts the jobs. Extras are those of the stores that workers read.
ARG PYTHON=3.11
ARG BEAM=2.77.0
FROM apache/beam_python${PYTHON}_sdk:${BEAM}

ARG EXTRAS=
WORKDIR /opt/tutelage
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY models models
COPY trainers trainers
COPY export export
COPY launch launch
RUN pip install --no-cache-dir -c constraints.txt ".${EXTRAS}"
# The base image's entry point, /opt/apache/beam/boot, starts the worker.
