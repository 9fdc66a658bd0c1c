//! Faults of the exchange itself, of its host and of those who run it: rows of `docs/faults.md`, each with the test that
//! holds it. That those tests exist is for `tests/docs.rs` to see.

/// What happens, what must come of it, and where that is tested: a file and a function.
pub(crate) struct Held {
    pub(crate) what: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) file: &'static str,
    pub(crate) test: &'static str,
}

#[rustfmt::skip] // a case a line
pub(crate) const ROWS: [(&str, &[Held]); 5] = [
    ("Panics and deaths", &[
        held("a bid request panics, at any stage", "204, and it is counted; its connection and its shard go on", "tests/it/rehearsal.rs", "a_panic_at_any_stage_costs_its_request"),
        held("a shard panics outside any request", "another takes its place at once; it finishes what it has in flight", "tests/it/rehearsal.rs", "a_shard_that_breaks_finishes_what_it_has_while_another_serves"),
        held("a shard's thread dies", "its connections are closed, no descriptor is left; the others serve, and another in its place", "tests/it/rehearsal.rs", "a_shard_that_dies_closes_its_connections_and_leaves_no_descriptor"),
        held("shards die too often", "the process ends with 1", "tests/it/rehearsal.rs", "too_many_deaths_end_the_process"),
        held("a shard cannot start", "the process ends with 1", "src/shard/mod.rs", "so_is_that_a_shard_cannot_start"),
        held("a shard does not become ready", "the process ends with 1 and says which", "src/supervisor/mod.rs", "a_shard_that_does_not_get_ready_is_not_waited_for"),
        held("a shard's loop stands still", "the log says which; who waited is served", "tests/it/rehearsal.rs", "a_shard_that_stands_still_is_told_of"),
        held("a shard's loop stands still for half of systemd's watchdog", "no sign of life until it turns again", "tests/it/rehearsal.rs", "while_a_shard_stands_still_systemd_has_no_sign_of_life"),
        held("panics, a shard that breaks, reloads and handovers at once, under load", "no request fails", "tests/it/rehearsal.rs", "all_at_once_and_no_request_fails"),
    ]),
    ("Too much", &[
        held("a bid request more than `max_in_flight`", "503 at once; who is in is served", "tests/it/http.rs", "one_more_than_the_limit_is_shed_at_once"),
        held("bid requests that hold more than `max_memory_bytes`", "503 at once; who is in is served", "tests/it/overload.rs", "memory_has_a_limit_that_large_bodies_reach_before_the_number_in_flight"),
        held("four times what it can do", "it does what it can; who waited longest is shed; health and metrics answer", "tests/it/overload.rs", "under_four_times_what_it_can_do_it_does_what_it_can"),
        held("too little time for a fan-out", "no bid, and nobody is asked", "tests/it/overload.rs", "without_time_for_a_fan_out_there_is_none"),
        held("a connection more than `max_connections`", "reset at once; the others go on", "tests/it/abuse_h1.rs", "connections_have_a_limit"),
        held("a connection more than `max_connections_per_peer`", "reset at once; other addresses are served", "tests/it/abuse_h1.rs", "connections_of_one_address_have_a_limit"),
        held("20,000 streams on a connection, and another", "REFUSED_STREAM; the 20,000 go on", "tests/it/abuse_h2.rs", "streams_of_a_connection_have_a_limit"),
        held("a head in drips", "408 and the end, in its time", "tests/it/abuse_h1.rs", "a_head_in_drips_has_its_time_and_no_more"),
        held("answers that nobody reads", "the end, in their time", "tests/it/abuse_h1.rs", "answers_that_nobody_reads_end_the_connection"),
        held("requests taken back in the middle of their auctions", "GOAWAY past a limit; the fan-outs end", "tests/it/abuse_h2.rs", "taking_back_what_was_asked_has_a_limit"),
        held("an SSP that resets its connection in the middle of an auction", "its fan-out ends", "tests/it/abuse_h1.rs", "who_resets_ends_the_fan_out_and_who_half_closes_does_not"),
        held("no descriptors left", "who is in is served, who waits is accepted once there are some; the log says it, and not with each attempt", "tests/it/lifecycle.rs", "without_descriptors_who_connects_waits"),
        held("a log that nobody reads", "nothing waits for it", "tests/it/logs.rs", "a_log_that_nobody_reads_stops_nothing"),
        held("a flood of bad requests", "a few lines of log and a number", "tests/it/logs.rs", "a_flood_of_bad_requests_is_a_few_lines_and_a_number"),
    ]),
    ("Another configuration", &[
        held("a file that is wrong, or takes a restart", "nothing changes, everything that is wrong is told", "tests/it/reload.rs", "a_wrong_file_changes_nothing_and_is_told_whole"),
        held("a reload in the middle of an auction", "it finishes by the configuration that it met", "tests/it/reload.rs", "a_request_in_flight_finishes_by_the_configuration_it_met"),
        held("reloads under load over HTTP/1.1", "no request, no bid, no count is lost", "tests/it/reload.rs", "reloads_under_load_lose_nothing_over_h1"),
        held("reloads under load over HTTP/2", "the same", "tests/it/reload.rs", "reloads_under_load_lose_nothing_over_h2"),
        held("many reloads, each with another DSP", "nothing is left of them", "tests/it/reload.rs", "many_reloads_leave_nothing_behind"),
        held("many reloads at once", "they share rounds, and each is answered", "tests/it/reload.rs", "reloads_at_once_share_rounds"),
        held("a reload while draining", "409, and nothing changes", "tests/it/reload.rs", "a_process_that_drains_takes_nothing_on"),
    ]),
    ("Another process, or the end", &[
        held("a handover under load", "no request fails, no connection is refused", "tests/it/handover.rs", "under_load_nobody_notices"),
        held("a handover to more shards, or fewer", "the same", "tests/it/handover.rs", "there_may_be_more_shards_or_fewer"),
        held("a handover in the middle of an auction", "the old process finishes it", "tests/it/handover.rs", "what_is_in_flight_is_finished_by_the_old_process"),
        held("a handover to a configuration that is wrong or another address", "the old process goes on and says why", "tests/it/handover.rs", "a_handover_that_fails_changes_nothing"),
        held("a handover to a process that does not become ready", "it is ended in its time, the old one goes on", "tests/it/handover.rs", "a_new_process_that_is_slow_is_waited_for_and_then_given_up"),
        held("SIGTERM in the middle of an auction", "503 on `/readyz`, the auction is finished, 0", "tests/it/lifecycle.rs", "sigterm_finishes_what_is_in_flight"),
        held("SIGTERM with HTTP/2", "GOAWAY; streams are finished", "tests/it/h2c.rs", "draining_says_goaway"),
        held("a request that crosses with SIGTERM", "answered", "tests/it/lifecycle.rs", "a_request_that_crosses_with_the_drain_is_answered"),
        held("SIGTERM with hundreds that wait to be accepted", "answered", "tests/it/rehearsal.rs", "who_waited_to_be_accepted_when_a_shard_is_told_to_drain_is_answered"),
        held("SIGTERM, and an auction that does not end", "cut off after `drain_ms`", "tests/it/lifecycle.rs", "draining_ends_when_its_time_is_over"),
        held("a second SIGTERM", "the end at once, with 1", "tests/it/lifecycle.rs", "a_second_signal_ends_it_at_once"),
        held("a port that another program has", "1, and the port is named", "tests/it/lifecycle.rs", "a_port_in_use_is_named"),
    ]),
    ("Many DSPs, and TLS", &[
        held("all but one of the DSPs misbehave, each in its way", "the auction of the other one's bids, in its time", "tests/it/faults.rs", "all_misbehave_at_once"),
        held("22 of 23 DSPs are dead", "the other one wins; after some failures nobody waits for them", "tests/it/gates.rs", "twenty_two_of_twenty_three_are_dead_and_the_other_one_wins"),
        held("all DSPs are dead", "no bid at once, and probes go on", "tests/it/gates.rs", "when_all_are_open_there_is_no_bid_at_once_and_probes_go_on"),
        held("a DSP that comes and goes", "left alone for a back-off that doubles", "src/fanout/breaker.rs", "keeps_its_promises"),
        held("a certificate by an unknown authority", "not trusted: it is told no bid request", "tests/it/tls.rs", "a_dsp_by_an_unknown_authority_is_not_trusted"),
        held("a TLS handshake that stalls", "the auction does not wait for it", "tests/it/tls.rs", "a_handshake_that_stalls_does_not_stop_the_auction"),
        held("a TLS handshake that fails", "costs that DSP's bid", "tests/it/tls.rs", "a_failed_handshake_costs_only_that_dsps_bid"),
        held("an answer over TLS that is cut off", "none", "tests/it/tls.rs", "an_answer_that_is_cut_off_is_none"),
        held("a DSP that is not there when the exchange starts", "the start does not wait for it for longer than `warm_up_ms_max`", "tests/it/warm.rs", "a_dsp_that_is_not_there_does_not_hold_up_the_start"),
    ]),
];

const fn held(what: &'static str, expected: &'static str, file: &'static str, test: &'static str) -> Held {
    Held {
        what,
        expected,
        file,
        test,
    }
}
