#!/usr/bin/env bash
# The habits of the shell scripts around Safe RLHF's modules: flags as `--flag v` and `--flag=v`, others refused; a
# folder that holds a .gitignore, a copy of the script and both logs before the module starts; no W&B without a key.
# LAUNCH is what starts the module, PAIRS the file of pairs.
model="missing" output="missing" stage=3 offload=none bf16=False
while (($#)); do
	case "$1" in
		--*=*) flag="${1%%=*}" value="${1#*=}" && shift ;;
		*) flag="$1" value="${2-}" && shift && shift ;;
	esac
	case "${flag}" in
		--model_name_or_path) model="${value}" ;;
		--output_dir) output="${value}" ;;
		--zero_stage) stage="${value}" ;;
		--offload) offload="${value}" ;;
		--bf16) bf16="${value}" ;;
		*) echo "Unknown parameter passed: '${flag}'" >&2 && exit 1 ;;
	esac
done

mkdir -p "${output}"
[[ -f "${output}/.gitignore" ]] || echo "*" >"${output}/.gitignore"
cp -f "$0" "${output}/script.sh"
[[ -n "${WANDB_API_KEY-}" ]] || export WANDB_MODE=offline
exec 1> >(tee "${output}/stdout.log" >&1) 2> >(tee "${output}/stderr.log" >&2)

${LAUNCH} trl_rsa.compat.safe_rlhf.algorithms.dpo \
	--train_datasets "PKU-SafeRLHF/train:1.0:${PAIRS}" --eval_datasets "PKU-SafeRLHF/test:4/-1:${PAIRS}" \
	--model_name_or_path "${model}" --max_length 512 --trust_remote_code True --epochs 2 \
	--per_device_train_batch_size 4 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 \
	--gradient_checkpointing --learning_rate 1e-3 --lr_scheduler_type cosine --lr_warmup_ratio 0.03 \
	--weight_decay 0.05 --seed 42 --need_eval --eval_strategy epoch --scale_coeff 0.1 --output_dir "${output}" \
	--log_type wandb --log_project Safe-RLHF-DPO --zero_stage "${stage}" --offload "${offload}" --bf16 "${bf16}" --tf32 True
