# The API, or a worker on a Linux CPU. Not for Metal: a container on a Mac is a Linux guest without it.
FROM python:3.12-slim

# MLX on a CPU reads prompts six times as fast with OpenBLAS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libopenblas0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY scheduler scheduler
COPY tidegate tidegate
COPY workers workers
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --create-home tidegate && install --directory --owner tidegate --mode 700 /data
USER tidegate
WORKDIR /home/tidegate
VOLUME /data
ENV TIDEGATE_DATA_DIR=/data HF_HOME=/data/huggingface TIDEGATE_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 8400
CMD ["python", "-m", "tidegate", "api"]
