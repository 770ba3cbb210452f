"""The checks on devices that may pass on ``meta``, by the reason why they need no value from the device.

A check that belongs here claims nothing about values; one that does and passes on ``meta`` is broken.
"""

from __future__ import annotations

#: What is refused or stated comes before any tensor is on the device.
UNTOUCHED: dict[str, tuple[str, ...]] = {
    "test_compile_parity.py": ("test_backend_that_does_not_exist_raises",),
    "test_module_conv.py": ("test_convolution_settings_that_make_no_sense_raise",),
    "test_module_hooks.py": ("test_hooks_run_around_forward_in_order_of_registration",),
    "test_module_norms.py": ("test_norms_refuse_other_shapes",),
    "test_tensor_creation.py": (
        "test_arange_refuses_a_step_that_leads_away",
        "test_empty_refuses_a_negative_size",
    ),
    "test_tensor_matmul.py": ("test_float32_products_are_not_reduced_by_default",),
    "test_tensor_numpy.py": ("test_array_that_no_dtype_matches_raises",),
}

#: The error is raised from shapes, dtypes, flags or arguments, before any value is looked at.
REFUSALS: dict[str, tuple[str, ...]] = {
    "test_export_dynamic.py": (
        "test_branch_on_data_raises",
        "test_sizes_outside_what_was_declared_raise",
    ),
    "test_autograd_basic.py": (
        "test_complex_scalar_needs_an_argument",
        "test_non_scalar_without_an_argument_raises",
    ),
    "test_autograd_custom_function.py": ("test_backward_of_the_wrong_shape_or_count_raises",),
    "test_autograd_grad.py": (
        "test_untracked_input_or_output_raises",
        "test_unused_input_raises_by_default",
    ),
    "test_autograd_graph_freed.py": ("test_second_backward_through_a_freed_graph_raises",),
    "test_autograd_hooks.py": ("test_hook_on_an_untracked_tensor_raises",),
    "test_autograd_in_place.py": (
        "test_changing_one_of_several_views_raises",
        "test_changing_what_backward_needs_raises_at_backward",
        "test_parameter_update_between_forward_and_backward_raises",
    ),
    "test_autograd_requires_grad.py": (
        "test_integer_tensor_that_asks_for_grad_raises",
        "test_out_argument_cannot_be_differentiated",
    ),
    "test_autograd_variable_length.py": ("test_unsorted_lengths_are_refused_unless_allowed",),
    "test_autograd_vjp.py": ("test_vector_of_the_wrong_shape_or_number_raises",),
    "test_batchnorm_eval.py": (
        "test_channel_count_must_match",
        "test_wrong_rank_raises",
    ),
    "test_device_mixed.py": ("test_a_module_refuses_an_input_from_elsewhere",),
    "test_gradmode_inference.py": (
        "test_in_place_update_outside_the_mode_raises",
        "test_inference_tensor_cannot_enter_autograd",
        "test_inference_tensor_cannot_start_to_require_grad",
    ),
    "test_init_exact.py": ("test_rank_that_does_not_fit_raises",),
    "test_init_laws.py": ("test_fan_of_a_vector_is_undefined",),
    "test_jit_freeze.py": ("test_freezing_in_training_mode_raises",),
    "test_jit_save_load.py": ("test_cut_and_missing_files_raise",),
    "test_loss_invalid.py": (
        "test_class_probabilities_of_another_shape_raise",
        "test_other_losses_refuse_shapes_that_do_not_fit",
        "test_binary_targets_of_another_shape_raise",
        "test_label_smoothing_above_one_raises",
        "test_labels_of_another_shape_raise",
        "test_margins_and_orders_without_meaning_raise",
        "test_unknown_reduction_raises",
    ),
    "test_mode_dropout.py": ("test_rate_outside_zero_to_one_raises",),
    "test_module_attention.py": ("test_attention_refuses_what_contradicts_itself",),
    "test_module_containers.py": ("test_sequential_indices_out_of_range_raise",),
    "test_module_conv.py": ("test_convolution_of_a_wrong_shape_raises",),
    "test_module_copy.py": ("test_a_tensor_with_a_history_cannot_be_deep_copied",),
    "test_module_embedding.py": ("test_indices_must_be_whole_numbers",),
    "test_module_forward.py": ("test_a_module_without_forward_says_so",),
    "test_module_freeze.py": ("test_conversion_to_integers_is_refused",),
    "test_module_hooks.py": ("test_always_called_hooks_run_when_forward_raises",),
    "test_module_linear.py": ("test_linear_refuses_an_input_of_another_size",),
    "test_module_multihead.py": ("test_multihead_attention_refuses_sizes_that_do_not_fit",),
    "test_module_pooling.py": ("test_pooling_that_makes_no_sense_raises",),
    "test_module_recurrent.py": ("test_layers_refuse_wrong_sizes",),
    "test_module_registration.py": (
        "test_a_computed_tensor_cannot_be_a_parameter",
        "test_assigning_a_plain_tensor_to_a_parameter_raises",
        "test_assigning_before_super_init_raises",
        "test_names_that_cannot_be_registered_raise",
        "test_registering_a_buffer_before_super_init_raises",
    ),
    "test_optim_use.py": (
        "test_state_of_another_shape_is_refused",
        "test_wrong_groups_and_settings_raise",
    ),
    "test_tensor_attributes.py": (
        "test_default_dtype_must_be_floating",
        "test_device_rejects_nonsense",
        "test_size_of_a_dimension_that_does_not_exist_raises",
    ),
    "test_tensor_creation.py": ("test_item_raises_without_exactly_one_element",),
    "test_tensor_math_empty.py": ("test_function_of_no_elements_raises_where_nothing_is_the_answer",),
}

#: The claim is about the graph, its modes, hooks and memory, not about values.
TRACKING: dict[str, tuple[str, ...]] = {
    "test_autograd_basic.py": ("test_unreduced_module_loss_is_not_a_scalar",),
    "test_autograd_custom_function.py": (
        "test_changing_a_saved_tensor_is_noticed",
        "test_materialize_grads_can_be_switched_off",
        "test_no_backward_is_recorded_where_nothing_needs_it",
    ),
    "test_autograd_debuggable.py": (
        "test_every_line_of_forward_can_be_traced",
        "test_exception_in_a_custom_backward_shows_its_line",
        "test_exception_in_a_hook_shows_its_line",
    ),
    "test_autograd_detach.py": ("test_change_through_a_detached_tensor_is_noticed",),
    "test_autograd_double.py": ("test_without_create_graph_there_is_no_second_derivative",),
    "test_autograd_graph_freed.py": (
        "test_backward_releases_what_the_graph_saved",
        "test_create_graph_retains_unless_told_otherwise",
        "test_dropping_the_loss_releases_the_graph",
    ),
    "test_autograd_hooks.py": (
        "test_global_module_hook_sees_every_module",
        "test_hooks_of_nested_modules_fire_from_the_outside_in",
        "test_removed_hook_is_not_called",
    ),
    "test_autograd_in_place.py": ("test_every_kind_of_change_is_noticed",),
    "test_autograd_requires_grad.py": (
        "test_discrete_and_detached_results_do_not_require_grad",
        "test_grad_fn_leads_back_to_the_leaves",
        "test_like_factories_do_not_inherit_requires_grad",
        "test_requires_grad_can_be_switched_on_a_leaf_only",
        "test_results_require_grad_when_an_operand_does",
    ),
    "test_clip_value.py": (
        "test_exhausted_generator_warns_that_nothing_is_clipped",
        "test_nothing_to_clip_has_norm_zero",
    ),
    "test_gradmode_decorated.py": (
        "test_class_itself_decorates_like_its_object",
        "test_context_object_serves_one_block_after_another",
        "test_decorated_function_calls_one_of_another_mode",
        "test_every_kind_of_method_takes_the_decorator",
        "test_functions_that_share_a_decorator_call_each_other",
        "test_generators_of_different_modes_take_turns",
        "test_recursive_function_restores_its_callers_mode",
        "test_recursive_generator_leaves_its_caller_alone",
    ),
    "test_gradmode_inference.py": (
        "test_change_inside_the_mode_is_noticed_by_backward",
        "test_enable_grad_does_not_track_inside_the_mode",
        "test_mode_decorates_functions_and_ends_with_an_exception",
        "test_mode_false_leaves_or_switches_off_the_mode",
        "test_results_are_untracked_inference_tensors",
    ),
    "test_gradmode_memory.py": (
        "test_frozen_model_keeps_nothing",
        "test_kept_bytes_grow_with_the_batch",
        "test_model_keeps_no_activations_under_no_grad",
        "test_no_grad_holds_the_result_alone",
        "test_only_the_tracked_part_keeps_activations",
        "test_operation_keeps_what_its_derivative_needs_and_nothing_under_no_grad",
    ),
    "test_gradmode_no_grad.py": (
        "test_modules_under_no_grad_are_untracked",
        "test_what_does_not_ask_does_not_require_grad",
    ),
    "test_gradmode_restored.py": (
        "test_async_block_restores_the_mode",
        "test_backward_restores_the_mode",
        "test_context_object_can_be_used_again",
        "test_decorated_function_has_the_mode_for_its_call_only",
        "test_decorated_generator_is_in_the_mode_only_while_it_runs",
        "test_error_in_a_decorated_generator_restores_the_mode",
        "test_exit_stack_unwinds_the_modes",
        "test_failed_operation_restores_the_mode",
        "test_generator_under_enable_grad_inside_no_grad",
        "test_mode_is_restored_after_an_exception",
        "test_mode_is_restored_at_exit",
        "test_nested_modes_unwind_one_by_one",
        "test_set_grad_enabled_works_both_ways",
    ),
}

#: The claim is about names, registration, flags, shapes and identity of parts.
STRUCTURE: dict[str, tuple[str, ...]] = {
    "test_jit_language.py": ("test_scripts_mean_what_python_means",),  # of Python's values
    "test_compile_parity.py": ("test_state_dict_of_the_compiled_module_shares_the_tensors",),
    "test_batchnorm_eval.py": ("test_affine_false_has_no_parameters",),
    "test_jit_modes.py": ("test_mode_reaches_every_scripted_part",),
    "test_module_containers.py": (
        "test_an_empty_sequential_is_the_identity",
        "test_containers_pass_mode_and_dtype_on",
        "test_parameter_dict_registers_its_parameters",
    ),
    "test_module_conv_transpose.py": ("test_output_size_resolves_the_stride_ambiguity",),
    "test_module_copy.py": ("test_modes_and_flags_are_kept",),
    "test_module_forward.py": (
        "test_outputs_of_any_kind_pass_through",
        "test_positional_and_keyword_arguments_reach_forward",
    ),
    "test_module_freeze.py": (
        "test_a_wholly_frozen_model_builds_no_graph",
        "test_requires_grad_reaches_every_parameter_and_no_buffer",
        "test_type_converts_everything",
    ),
    "test_module_hooks.py": (
        "test_a_hook_may_remove_itself_while_it_runs",
        "test_global_hooks_see_every_module",
        "test_hooks_receive_module_inputs_and_output",
        "test_hooks_run_in_eval_and_without_gradients",
        "test_prepended_hooks_run_first",
    ),
    "test_module_linear.py": ("test_linear_has_parameters_of_the_documented_shapes",),
    "test_module_recurrent.py": ("test_parameters_have_the_documented_names_and_shapes",),
    "test_module_registration.py": (
        "test_a_parameter_may_be_registered_later_or_as_none",
        "test_a_parameter_takes_over_the_name_of_a_module_or_buffer",
        "test_buffers_are_registered_and_are_not_parameters",
        "test_deleting_an_attribute_unregisters_it",
        "test_parameters_are_registered_in_order_of_assignment",
        "test_parts_are_found_by_their_dotted_name",
        "test_shared_buffers_are_listed_once",
        "test_shared_parameters_and_modules_are_listed_once",
        "test_submodules_are_registered_in_order_of_assignment",
    ),
    "test_optim_state.py": ("test_expanded_options_of_each_group_are_seen_in_its_dict",),
    "test_serialize_process.py": ("test_loading_to_meta_gives_shapes_without_data",),
    "test_serialize_state_dict.py": (
        "test_a_prefix_goes_before_every_name",
        "test_extra_state_is_held_under_its_own_name",
        "test_it_does_not_depend_on_the_mode",
        "test_it_follows_later_registrations",
        "test_state_dict_hooks_see_and_change_the_result",
        "test_tied_parameters_appear_under_each_name",
    ),
}

#: The claim is about shape, dtype, strides or device of a tensor.
SHAPES: dict[str, tuple[str, ...]] = {
    "test_device_factories.py": (
        "test_contexts_nest_and_survive_exceptions",
        "test_default_device_and_context_are_obeyed",
        "test_device_argument_wins_over_the_ambient_device",
        "test_dtype_argument_is_obeyed",
        "test_like_functions_follow_their_argument",
        "test_memory_format_is_recognised",
        "test_modules_are_built_on_the_ambient_device",
        "test_new_functions_follow_their_tensor",
        "test_requires_grad_argument_is_obeyed",
    ),
    "test_device_module.py": (
        "test_every_form_of_the_call_moves_and_converts_as_it_says",
        "test_every_parameter_and_buffer_moves",
        "test_moving_again_changes_nothing",
    ),
    "test_device_runtime.py": ("test_exceptions_pass_through_the_context",),
    "test_device_to.py": (
        "test_a_form_that_changes_nothing_returns_the_tensor",
        "test_a_tensor_already_there_is_returned_itself",
    ),
    "test_tensor_attributes.py": (
        "test_default_dtype_is_float32_and_can_be_changed",
        "test_device_parses_type_and_index",
        "test_new_tensor_is_on_the_cpu_by_default",
        "test_shape_size_ndim_and_numel_agree",
        "test_size_is_a_tuple_of_ints",
        "test_views_and_results_report_their_own_shape",
    ),
    "test_tensor_creation.py": (
        "test_empty_has_the_shape_dtype_and_device_asked_for",
        "test_empty_strided_has_the_strides_asked_for",
    ),
    "test_tensor_dtypes.py": (
        "test_dtype_says_what_it_is",
        "test_packed_dtype_has_its_width",
    ),
    "test_tensor_numpy.py": ("test_tensor_of_an_array_is_a_copy",),
    "test_tensor_random.py": ("test_rand_has_the_shape_dtype_and_device_asked_for",),
    "test_tensor_views.py": (
        "test_squeeze_drops_only_sizes_of_one",
        "test_views_have_the_documented_strides",
    ),
}

ALLOWED = frozenset(
    f"conformance/{file}::{name}"
    for group in (UNTOUCHED, REFUSALS, TRACKING, STRUCTURE, SHAPES)
    for file, names in group.items()
    for name in names
)
MAY_NOT_TOUCH = frozenset(f"conformance/{file}::{name}" for file, names in UNTOUCHED.items() for name in names)
