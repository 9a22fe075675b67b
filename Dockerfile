# leadwise in a container, for a CPU or an NVIDIA GPU.
#
#   docker build -t leadwise .                                  # CPU
#   docker build -t leadwise:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#
#   docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD/ecgs:/data:ro" leadwise read /data/a.xml
#   docker run --rm --gpus all -v "$PWD:/data" leadwise:cuda pretrain config.toml --out runs/a
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY configs configs
COPY leadwise leadwise
# CPU: torch's own index has a build without CUDA, which is gigabytes smaller
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=formats,serve,onnx
RUN python -m venv /opt/leadwise \
 && /opt/leadwise/bin/pip install --no-cache-dir -c constraints.txt --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple torch \
 && /opt/leadwise/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/leadwise /opt/leadwise
ENV PATH=/opt/leadwise/bin:$PATH HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp
# reports and ECGs are patient data: the process is no root, and needs no network
RUN useradd --create-home leadwise
USER leadwise
WORKDIR /data
ENTRYPOINT ["leadwise"]
CMD ["--help"]
