"""What the settings of TRL, verl and OpenRLHF are called here.

Each line has a name, the settings to use instead ("-" if there are none), and what differs. Messages about unknown keys
and docs/coming-from-other-libraries.md use these tables.
"""

from __future__ import annotations

from dataclasses import dataclass

TRL = """
model_name_or_path | model.path |
dtype | model.dtype | the weights that are trained stay float32
torch_dtype | model.dtype | the weights that are trained stay float32
chat_template_kwargs | model.template_options |
system_prompt | prompts.system |
dataset_name | problems.source | a file, a suite, or hub:NAME
dataset_train_split | problems.split |
dataset_test_split | evaluation.problems.split |
num_generations | method.n_solve |
num_generations_eval | evaluation.n |
per_device_train_batch_size | problems_per_batch | it counts problems, not replies, over all devices
generation_batch_size | problems_per_batch | it counts problems, not replies
gradient_accumulation_steps | training.micro_batch_tokens | results do not depend on it
steps_per_generation | method.solve.n_steps |
num_iterations | method.solve.n_steps | every reply is trained once, in this many optimizer steps per update
max_steps | updates | an update has method.solve.n_steps optimizer steps
num_train_epochs | updates | passes * problems / problems_per_batch
learning_rate | training.lr |
lr_scheduler_type | training.schedule |
warmup_steps | training.warmup_updates |
warmup_ratio | training.warmup_updates | a number of updates, not a fraction
adam_beta1 | training.betas | both in a list
adam_beta2 | training.betas | both in a list
optim | training.optimizer |
bf16 | training.autocast | "bfloat16"
max_completion_length | sampling.max_tokens |
max_prompt_length | sampler.max_prompt_tokens | longer prompts are left out, not cut
min_p | - | training samples from the full distribution
repetition_penalty | - | training samples from the full distribution
beta | method.solve.kl_coef |
epsilon | method.solve.clip_low method.solve.clip_high | here they have different defaults
epsilon_high | method.solve.clip_high |
delta | method.solve.dual_clip |
entropy_coef | method.solve.entropy_coef |
scale_rewards | method.solve.advantage | "group" is "standardize", "batch" nearly "reinforce_pp_baseline", "none" "center"
loss_type | method.objective | it also sets advantages and clip; method.solve.loss_aggregation alone does not
importance_sampling_level | method.solve.importance_sampling_level | "sequence_token" is "sequence"
sapo_temperature_pos | method.solve.tau_pos |
sapo_temperature_neg | method.solve.tau_neg |
mask_truncated_completions | method.solve.truncated | true is "mask"
sync_ref_model | training.reference_every | above 0
ref_model_sync_steps | training.reference_every | in updates
ref_model_mixup_alpha | training.reference_mixup |
disable_dropout | - | dropout is always off
reward_funcs | rewards problems.verifier | [[rewards]] with function = "module:function"
reward_weights | rewards | a weight in each [[rewards]]
use_vllm | sampler.engine | "vllm"
vllm_mode | sampler.urls | without URLs, the run starts vLLM itself
vllm_server_base_url | sampler.urls | a list
vllm_server_host | sampler.urls | a list of addresses such as "http://HOST:PORT"
vllm_server_timeout | sampler.timeout_s |
max_staleness | async_level | it counts problem batches, not updates
vllm_gpu_memory_utilization | sampler.gpu_memory |
vllm_importance_sampling_correction | training.old_log_probs | "recomputed"; false is importance_sampling_mode = "none"
vllm_importance_sampling_mode | training.importance_sampling_mode | with training.old_log_probs = "recomputed"
vllm_importance_sampling_cap | training.importance_sampling_clip_max |
vllm_importance_sampling_clip_max | training.importance_sampling_clip_max |
vllm_importance_sampling_clip_min | training.importance_sampling_clip_min |
use_peft | lora.rank | above 0
lora_r | lora.rank |
lora_alpha | lora.alpha |
lora_target_modules | lora.targets |
lora_dropout | - | adapters have no dropout
output_dir | out |
save_steps | checkpoint_every |
save_total_limit | keep_checkpoints |
eval_steps | evaluation.every |
eval_strategy | evaluation.every |
eval_on_start | evaluation.at_start |
logging_steps | - | every update is logged
log_completions | n_logged_samples | they are in samples.jsonl and report.html
num_completions_to_print | n_logged_samples |
report_to | trackers | a list, such as ["wandb"]; metrics.jsonl and report.html are always in the run folder
resume_from_checkpoint | - | repeat the command with --resume
"""

VERL = """
actor_rollout_ref.model.path | model.path |
actor_rollout_ref.model.enable_gradient_checkpointing | training.gradient_checkpointing |
actor_rollout_ref.model.lora_rank | lora.rank |
actor_rollout_ref.model.lora_alpha | lora.alpha |
actor_rollout_ref.model.target_modules | lora.targets |
actor_rollout_ref.rollout.n | method.n_solve |
actor_rollout_ref.rollout.name | sampler.engine |
actor_rollout_ref.rollout.temperature | sampling.temperature |
actor_rollout_ref.rollout.top_p | evaluation.sampling.top_p | training samples from the full distribution
actor_rollout_ref.rollout.top_k | evaluation.sampling.top_k | training samples from the full distribution
actor_rollout_ref.rollout.prompt_length | sampler.max_prompt_tokens |
actor_rollout_ref.rollout.response_length | sampling.max_tokens |
actor_rollout_ref.rollout.max_model_len | sampler.max_prompt_tokens sampling.max_tokens |
actor_rollout_ref.rollout.calculate_log_probs | - | the sampler's log-probs are always kept
actor_rollout_ref.rollout.gpu_memory_utilization | sampler.gpu_memory |
actor_rollout_ref.rollout.tensor_model_parallel_size | sampler.urls | start such a server yourself
actor_rollout_ref.rollout.val_kwargs.n | evaluation.n |
actor_rollout_ref.rollout.val_kwargs.temperature | evaluation.sampling.temperature |
actor_rollout_ref.rollout.val_kwargs.top_p | evaluation.sampling.top_p |
actor_rollout_ref.rollout.val_kwargs.top_k | evaluation.sampling.top_k |
actor_rollout_ref.rollout.val_kwargs.do_sample | evaluation.sampling.temperature | 0 is greedy
actor_rollout_ref.actor.optim.lr | training.lr |
actor_rollout_ref.actor.optim.lr_warmup_steps | training.warmup_updates |
actor_rollout_ref.actor.optim.lr_warmup_steps_ratio | training.warmup_updates | a number of updates, not a fraction
actor_rollout_ref.actor.optim.warmup_style | training.schedule |
actor_rollout_ref.actor.optim.lr_scheduler_type | training.schedule |
actor_rollout_ref.actor.optim.weight_decay | training.weight_decay |
actor_rollout_ref.actor.optim.betas | training.betas |
actor_rollout_ref.actor.grad_clip | training.max_grad_norm |
actor_rollout_ref.actor.ppo_mini_batch_size | method.solve.n_steps | train_batch_size / ppo_mini_batch_size
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu | training.micro_batch_tokens | in tokens
actor_rollout_ref.actor.ppo_max_token_len_per_gpu | training.micro_batch_tokens |
actor_rollout_ref.actor.ppo_epochs | - | every reply is trained once
actor_rollout_ref.actor.freeze_vision_tower | training.vision | true is "frozen", which is the default here
actor_rollout_ref.actor.clip_ratio | method.solve.clip_low method.solve.clip_high |
actor_rollout_ref.actor.clip_ratio_low | method.solve.clip_low |
actor_rollout_ref.actor.clip_ratio_high | method.solve.clip_high |
actor_rollout_ref.actor.clip_ratio_c | method.solve.dual_clip |
actor_rollout_ref.actor.loss_agg_mode | method.solve.loss_aggregation | "token", "sequence" or "constant"
actor_rollout_ref.actor.loss_scale_factor | method.solve.constant_length | here, the loss is a mean over replies
actor_rollout_ref.actor.policy_loss.loss_mode | method.solve.surrogate | "vanilla" is "clip", "geo_mean" is "gmpo"
actor_rollout_ref.actor.tau_pos | method.solve.tau_pos |
actor_rollout_ref.actor.tau_neg | method.solve.tau_neg |
actor_rollout_ref.actor.use_kl_loss | method.solve.kl_coef | 0 is off
actor_rollout_ref.actor.kl_loss_coef | method.solve.kl_coef |
actor_rollout_ref.actor.kl_loss_type | method.solve.kl_estimator | "low_var_kl" is "k3", "mse" is "k2"
actor_rollout_ref.actor.entropy_coeff | method.solve.entropy_coef |
algorithm.adv_estimator | method.name method.solve.advantage | "grpo" is "standardize", "reinforce_plus_plus" "reinforce_pp"
actor_rollout_ref.actor.tis_imp_ratio_cap | training.importance_sampling_clip_max | -1 is importance_sampling_mode = "none"
algorithm.norm_adv_by_std_in_grpo | method.solve.advantage | true is "standardize", false is "center"
algorithm.kl_ctrl.kl_coef | method.solve.kl_coef | with method.solve.kl_estimator = "k1", in the reward of each token
algorithm.use_kl_in_reward | method.solve.kl_estimator | true is nearly "k1": in the reward of each token
algorithm.rollout_correction.rollout_is | training.importance_sampling_mode | "token" is "token_truncate"; null is "none"
algorithm.rollout_correction.rollout_is_threshold | training.importance_sampling_clip_max | "0.5_5.0" sets both bounds
algorithm.rollout_correction.rollout_rs | training.importance_sampling_mode | "token_k1" is "token_mask"
algorithm.rollout_correction.rollout_rs_threshold | training.importance_sampling_clip_max |
algorithm.rollout_correction.rollout_rs_threshold_lower | training.importance_sampling_clip_min |
algorithm.filter_groups.enable | method.solve.zero_std_groups | "drop"; method.max_groups is the number to train
algorithm.filter_groups.metric | method.solve.zero_std_groups | rewards are compared, after a penalty for long replies
algorithm.filter_groups.max_num_gen_batches | method.fill_rounds | one less: the first batch does not count
data.train_files | problems.source |
data.val_files | evaluation.problems.source |
data.prompt_key | problems.question |
data.train_batch_size | problems_per_batch |
data.gen_batch_size | problems_per_batch | with train_batch_size as method.max_groups
data.apply_chat_template_kwargs | model.template_options |
data.max_prompt_length | sampler.max_prompt_tokens |
data.max_response_length | sampling.max_tokens |
data.filter_overlong_prompts | sampler.overlong_prompts | "skip", which is the default
data.truncation | sampler.overlong_prompts | prompts are never cut
data.seed | seed |
reward_model.overlong_buffer.enable | method.solve.overlong_buffer | 0 is off
reward_model.overlong_buffer.len | method.solve.overlong_buffer |
reward_model.overlong_buffer.penalty_factor | - | the penalty rises to 1
custom_reward_function.path | problems.verifier | or [[rewards]]; both take "module:function"
custom_reward_function.name | problems.verifier | or [[rewards]]; both take "module:function"
trainer.total_epochs | updates | passes * problems / problems_per_batch
trainer.total_training_steps | updates |
trainer.save_freq | checkpoint_every |
trainer.test_freq | evaluation.every |
trainer.val_before_train | evaluation.at_start |
trainer.max_actor_ckpt_to_keep | keep_checkpoints |
trainer.default_local_dir | out |
trainer.project_name | out |
trainer.experiment_name | out |
trainer.n_gpus_per_node | - | start the run with torchrun
trainer.nnodes | - | start the run with torchrun
trainer.logger | trackers | a list, such as ["wandb"]; metrics.jsonl and report.html are always in the run folder
trainer.resume_mode | - | repeat the command with --resume
"""

OPENRLHF = """
pretrain | model.path |
prompt_data | problems.source |
input_key | problems.question |
label_key | problems.answer |
remote_rm_url | problems.verifier | "module:function"
advantage_estimator | method.name method.solve.advantage | "group_norm" is "standardize", "reinforce" "reinforce_pp"
n_samples_per_prompt | method.n_solve |
rollout_batch_size | problems_per_batch |
train_batch_size | method.solve.n_steps | replies of a batch / train_batch_size
micro_train_batch_size | training.micro_batch_tokens | in tokens
micro_rollout_batch_size | sampler.cache_gib | in GiB
generate_max_len | sampling.max_tokens |
prompt_max_len | sampler.max_prompt_tokens |
actor_learning_rate | training.lr |
init_kl_coef | method.solve.kl_coef |
eps_clip | method.solve.clip_low method.solve.clip_high |
eps_clip_low_high | method.solve.clip_low method.solve.clip_high |
overlong_buffer_len | method.solve.overlong_buffer |
num_episodes | updates | passes * problems / problems_per_batch
max_epochs | updates | every reply is trained once
vllm_num_engines | sampler.engine | "vllm"
lora_rank | lora.rank |
save_path | out |
ckpt_path | out |
max_ckpt_num | keep_checkpoints |
"""


@dataclass(frozen=True)
class Counterpart:
    """What to use instead of another library's setting: the settings here (none: there is no counterpart), and a note."""

    library: str
    settings: tuple[str, ...]
    note: str

    def __str__(self) -> str:
        if not self.settings:
            return f"{self.library}'s setting has no counterpart here: {self.note}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.library}'s setting is {' and '.join(self.settings)} here{note}"


def _read(library: str, lines: str) -> dict[str, Counterpart]:
    found: dict[str, Counterpart] = {}
    for line in lines.strip().splitlines():
        name, settings, note = (part.strip() for part in line.split("|"))
        found[name] = Counterpart(library, () if settings == "-" else tuple(settings.split()), note)
    return found


TABLES = {library: _read(library, lines) for library, lines in (("TRL", TRL), ("verl", VERL), ("OpenRLHF", OPENRLHF))}
"""The counterparts of each library's settings, by name."""


def find(key: str) -> Counterpart | None:
    """Return the counterpart of a key such as "num_generations" or "training.num_generations"; None if it is no other
    library's.

    >>> str(find("num_generations"))
    "TRL's setting is method.n_solve here"
    """
    key = key.lstrip("+-")
    for name in (key, key.rpartition(".")[2]):
        for table in TABLES.values():
            if name in table or name.replace("-", "_") in table:
                return table.get(name) or table[name.replace("-", "_")]
    return None
