# The bundled model, which dbrx uses when it is given none.
nanodir = $(pkgdatadir)/models/nano
dist_nano_DATA = %D%/nano/README.md %D%/nano/config.json %D%/nano/generation_config.json \
  %D%/nano/golden.json %D%/nano/model.safetensors %D%/nano/tokenizer.json \
  %D%/nano/tokenizer_config.json
