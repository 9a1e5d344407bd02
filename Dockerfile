# rethink in a container, with PyTorch's CPU build:
#   docker build --tag rethink .
#   docker run --rm --user "$(id -u):$(id -g)" --env HOME=/work --volume "$PWD:/work" rethink demo --updates 40 --out runs/demo
# For GPUs, choose a CUDA build as `uv --torch-backend` names it, and any extras:
#   docker build --tag rethink:cuda --build-arg TORCH=cu130 --build-arg EXTRAS="--extra peft --extra serve" .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --env HOME=/work --volume "$PWD:/work" rethink:cuda train demo-grpo
FROM python:3.11-slim

ARG TORCH=cpu
ARG EXTRAS=""

# The dependencies alone, so that a change of the code does not install them again.
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
# hadolint ignore=SC2086
RUN pip install --no-cache-dir "uv>=0.9,<1" \
    && uv pip install --system --no-cache --torch-backend "$TORCH" --constraint constraints.txt \
        --requirements pyproject.toml $EXTRAS
COPY src src
RUN uv pip install --system --no-cache --no-deps .

# Replies are graded in a sandbox (docs/security.md), which needs no root.
RUN useradd --uid 1000 --create-home rethink && mkdir /work && chown 1000 /work
USER 1000
WORKDIR /work
ENTRYPOINT ["rethink"]
CMD ["--help"]
