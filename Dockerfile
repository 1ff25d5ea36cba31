# localinfra on the CPU. docs/operations.md says how to build and run it.

FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/localinfra

# llama.cpp in a layer of its own, since compiling takes minutes. It is compiled for the machine that
# builds the image; --build-arg CMAKE_ARGS=-DGGML_NATIVE=off makes an image for others too.
# Without pip's cache: it knows builds by their version only.
ARG CMAKE_ARGS=""
COPY pyproject.toml localinfra/llama_parts.cmake /src/
RUN export CMAKE_ARGS="-DMTMD_VIDEO=off -DCMAKE_PROJECT_llama.cpp_INCLUDE=/src/llama_parts.cmake $CMAKE_ARGS" \
    && grep -o 'llama-cpp-python==[0-9.]*' /src/pyproject.toml \
    | xargs /opt/localinfra/bin/pip install --no-cache-dir

# EXTRAS=demo leaves PyTorch out: chat, and embedders in GGUF files.
ARG EXTRAS=all
ARG PIP_EXTRA_INDEX_URL=""
COPY README.md LICENSE models.toml scripts/tested.txt /src/
COPY localinfra /src/localinfra
RUN /opt/localinfra/bin/pip install --no-cache-dir -c /src/tested.txt "/src[$EXTRAS]"

FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 localinfra \
    && install -d -o localinfra -g localinfra /models
COPY --from=build /opt/localinfra /opt/localinfra
ENV PATH=/opt/localinfra/bin:$PATH HF_HOME=/models/huggingface LOCALINFRA_CACHE=/models/localinfra \
    LOCALINFRA_DATA=/models/data
USER localinfra
WORKDIR /home/localinfra
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python3", "-m", "localinfra.cli.alive", "8000"]
ENTRYPOINT ["localinfra"]
CMD ["serve", "--supervised", "--host", "0.0.0.0"]
