# docker build -t convmixer . && docker run --rm -v "$PWD:/work" convmixer train --dataset digits --out my-run
# Runs on a CPU. For a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple, and docker run --gpus all.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/convmixer
ENV PATH=/opt/convmixer/bin:$PATH
WORKDIR /src
COPY requirements.txt ./
RUN pip install --extra-index-url "$TORCH_INDEX" -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-deps .

FROM python:3.12-slim-bookworm
# The compiler builds the fast engine's kernels at first use, for the processor at hand.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/convmixer /opt/convmixer
ENV PATH=/opt/convmixer/bin:$PATH CONVMIXER_CACHE=/tmp/convmixer
RUN useradd --create-home --uid 1000 convmixer && install --directory --owner=1000 /work
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["convmixer"]
CMD ["--help"]
