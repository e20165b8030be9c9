# This model is one of the package unimatrix-lm, whose classes stand here by name: nothing else is run.
try:
    from unimatrix.hf import UniMatrixConfig, UniMatrixForCausalLM, UniMatrixModel
except ImportError as error:
    raise ImportError("this model needs the package unimatrix-lm: pip install unimatrix-lm") from error
