//! The words a metric's labels may hold. Everything here is a closed list, so that no traffic can grow the
//! number of time series.

use std::array;

/// Declares a label's closed list of values once: the enum, its text, and how many there are.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $meaning:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl $name {
            /// Every value, in the order in which it is rendered.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The label's value as text.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// What the value says, in a sentence or two: for documents and for who points at it on a page.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+
                }
            }
        }

        impl Labelled for $name {
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label_values! {
    /// Where in its life a bid request spent time. Each is named after the module or function that does the
    /// work, so that a metric tells which file to open.
    Stage {
        /// Deciding whether there is room for it.
        Admit = "admit",
        /// Reading the body from the SSP.
        Read = "read",
        /// JSON to a valid bid request.
        Parse = "parse",
        /// Choosing DSPs and what to send them.
        Plan = "plan",
        /// From the first DSP call sent to the last answer taken.
        Fanout = "fanout",
        /// DSP answers to offers, all of a bid request together. Part of `fanout`.
        Offers = "offers",
        /// Offers to winners and clearing prices.
        Auction = "auction",
        /// Writing the bid response.
        Write = "write",
        /// From arrival to the answer handed to the socket.
        Total = "total",
    }
}

label_values! {
    /// A fault that was brought about on purpose (`POST /rehearse`).
    Rehearsed {
        /// A panic outside any request: the shard is replaced while it finishes what it has in flight.
        Break = "break",
        /// A panic that nobody catches: the shard is gone with what it has in flight.
        Die = "die",
        /// The shard's loop stands still.
        Stall = "stall",
    }
}

label_values! {
    /// How a handover to a new process ended.
    HandoverResult {
        /// The new process has taken over; the count goes on in it.
        Done = "done",
        /// This process goes on: the new one did not start, or was not ready in time.
        Failed = "failed",
    }
}

label_values! {
    /// How one call to one DSP ended. Every call ends in exactly one of these.
    DspOutcome {
        /// Answered with at least one bid.
        Bid = "bid",
        /// Answered that it does not bid: an answer, not an error.
        NoBid = "no_bid",
        /// Did not answer before the deadline.
        Timeout = "timeout",
        /// The connection failed, or the status was not one of a bid response.
        Error = "error",
        /// Answered with something that is not a valid bid response.
        Invalid = "invalid",
        /// Not called: every connection to it was busy, or it has had its calls per second.
        Throttled = "throttled",
        /// Not called: its breaker is open.
        OpenBreaker = "open_breaker",
        /// Not waited for: its answers hardly ever matter so late.
        Cut = "cut",
    }
}

label_values! {
    /// What a DSP's breaker on one shard lets through.
    BreakerState {
        /// Every call.
        Closed = "closed",
        /// No call.
        Open = "open",
        /// A few calls, to see whether it works again.
        HalfOpen = "half_open",
    }
}

label_values! {
    /// What was wrong with a call to a DSP that ended in `error` or `invalid`.
    DspFault {
        /// No connection could be made.
        Unreachable = "unreachable",
        /// The connection was lost before the answer was whole.
        Lost = "lost",
        /// An HTTP status that is none of a bid response's; redirects are not followed.
        Status = "status",
        /// What came is not HTTP, or could be read in two ways.
        Protocol = "protocol",
        /// The answer is longer than `server.max_response_bytes`, on the wire or unpacked.
        TooLarge = "too_large",
        /// Its encoding was not asked for, or is damaged.
        Encoding = "encoding",
        /// Its body is not a bid response.
        Unreadable = "unreadable",
        /// It answers another bid request: its id is another.
        WrongId = "wrong_id",
        /// None of its bids can be used: no such imp, no price, a currency without a rate.
        NoUsableBid = "no_usable_bid",
    }
}

label_values! {
    /// How one TLS handshake with a DSP ended.
    HandshakeOutcome {
        /// With a new session: certificates were sent and checked.
        Full = "full",
        /// With an earlier session resumed.
        Resumed = "resumed",
        /// Its certificate is not to be trusted: expired, for another name, by an unknown authority.
        Certificate = "certificate",
        /// It refused, at once or before its first answer: our certificate, that we have none, or all that we offer.
        Refused = "refused",
        /// What came is not TLS as we speak it, or it does not agree to the protocol that is configured.
        Protocol = "protocol",
        /// The connection was lost.
        Lost = "lost",
        /// It took too long.
        Timeout = "timeout",
    }
}

label_values! {
    /// What became of one bid.
    BidResult {
        /// It is in the bid response.
        Won = "won",
        /// It was eligible or could have been, and lost for a reason that `losses_total` counts.
        Lost = "lost",
        /// It was not a bid that can be compared: no such imp, no readable price.
        Invalid = "invalid",
    }
}

label_values! {
    /// What a DSP's late answer turned out to be.
    LateFound {
        /// A bid that would have won.
        Won = "won",
        /// Bids of which none would have won; the best may still have raised what the winner pays.
        Lost = "lost",
        /// The DSP's no.
        NoBid = "no_bid",
        /// Not a valid bid response, or one to another bid request.
        Invalid = "invalid",
        /// Not looked at: there were too many, it is too large, or its auction is forgotten.
        Unseen = "unseen",
    }
}

label_values! {
    /// How much longer a DSP's time would have had to be for a late answer, in ms.
    LongerBy {
        /// At most 1 ms.
        Ms1 = "1",
        /// At most 2 ms.
        Ms2 = "2",
        /// At most 5 ms.
        Ms5 = "5",
        /// At most 10 ms.
        Ms10 = "10",
        /// At most 15 ms.
        Ms15 = "15",
        /// At most 20 ms.
        Ms20 = "20",
        /// At most 30 ms.
        Ms30 = "30",
        /// At most 40 ms.
        Ms40 = "40",
        /// At most 50 ms.
        Ms50 = "50",
        /// At most 100 ms.
        Ms100 = "100",
        /// At most 200 ms.
        Ms200 = "200",
        /// At most 500 ms.
        Ms500 = "500",
        /// At most 1000 ms.
        Ms1000 = "1000",
        /// Longer than that.
        Longer = "longer",
        /// No `timeout_ms` would have helped: it came after the deadline of the bid request.
        PastDeadline = "past_deadline",
    }
}

label_values! {
    /// What became of a line of the event log.
    EventFate {
        /// It was written.
        Written = "written",
        /// Every buffer of its shard was full or on its way: the disk is behind.
        Dropped = "dropped",
        /// The disk did not take it.
        Failed = "failed",
    }
}

label_values! {
    /// What became of a line of the log.
    LogLine {
        /// It was written.
        Written = "written",
        /// Its place in the code had said as much as it may in ten seconds.
        Suppressed = "suppressed",
        /// Whoever reads the log was too slow.
        Dropped = "dropped",
    }
}

label_values! {
    /// Why no auction was held for a bid request.
    ShedReason {
        /// The shard holds as many orchestrations as it may.
        InFlight = "in_flight",
        /// The shard's memory for orchestrations is used up.
        Memory = "memory",
        /// The shard has more to do than it can, and this one has waited longer than others.
        QueueDelay = "queue_delay",
        /// Too little of its own time was left for DSPs to answer in.
        Late = "late",
        /// The process is draining.
        Draining = "draining",
    }
}

label_values! {
    /// An amount with more than six decimals, which was rounded on its way in.
    Rounded {
        /// A bid's price, toward zero: nobody pays more than offered.
        Bid = "bid",
        /// A floor, up: nobody sells below it.
        Floor = "floor",
    }
}

label_values! {
    /// How a reload of the configuration ended.
    ReloadResult {
        /// Every shard serves it.
        Applied = "applied",
        /// Something is wrong with it, or it needs a restart; nothing has changed.
        Refused = "refused",
        /// It is in force, but not every shard served it within the time it has for that.
        Late = "late",
    }
}

label_values! {
    /// How far a panic got before it was caught.
    PanicLayer {
        /// It cost one bid request.
        Request = "request",
        /// It cost a shard with all it had in flight.
        Shard = "shard",
    }
}

label_values! {
    /// Which shard serves a connection.
    Placed {
        /// The one that accepted it.
        Kept = "kept",
        /// One that had clearly less to do.
        Passed = "passed",
    }
}

label_values! {
    /// Why a connection with an SSP ended. From `slow` on the SSP is to blame, or somebody who is none.
    ConnectionEnd {
        /// In order: the SSP closed it or left, it was old enough, or we drain.
        Closed = "closed",
        /// No request for `server.idle_timeout_ms`.
        Idle = "idle",
        /// The SSP reset it.
        Reset = "reset",
        /// What it had begun to send was not whole in time: the head of a request, a frame. Slowloris looks like this.
        Slow = "slow",
        /// It did not take its answers in time.
        Unread = "unread",
        /// What came is not HTTP, or breaks its rules.
        Protocol = "protocol",
        /// HTTP/2 frames without end that ask for nothing.
        Flood = "flood",
        /// HTTP/2 requests without end that are taken back: rapid reset.
        Resets = "resets",
        /// Refused: the shard has as many as it may.
        Full = "full",
        /// Refused: its address has as many as it may.
        PeerFull = "peer_full",
        /// A bug of ours: `panics_total` counts it, too.
        Panicked = "panicked",
    }
}

label_values! {
    /// What an SSP speaks.
    Http {
        /// HTTP/1.1, or 1.0.
        H1 = "h1",
        /// HTTP/2.
        H2 = "h2",
    }
}

label_values! {
    /// What an open connection is doing.
    ConnectionState {
        /// At least one request on it waits for its answer.
        Active = "active",
        /// Open and unused.
        Idle = "idle",
        /// Waits for an answer that nobody needs any more, so that it can be used again.
        Parked = "parked",
    }
}

label_values! {
    /// What a shard was doing while its loop stood still.
    StallCause {
        /// Reading a bid request.
        Parse = "parse",
        /// Planning whom to ask.
        Plan = "plan",
        /// Reading DSP answers of one bid request.
        Offers = "offers",
        /// Holding an auction.
        Auction = "auction",
        /// Writing a bid response.
        Write = "write",
        /// Moving bytes from and to DSPs.
        DspIo = "dsp_io",
        /// Nothing: its core was taken from it, by another thread or by the host.
        NotRunning = "not_running",
        /// None of these for half of the time: HTTP towards SSPs, compression, or many small things.
        Other = "other",
    }
}

label_values! {
    /// How a DSP does, by its calls in a window.
    DspState {
        /// Fewer than 1 in 20 calls fail.
        Good = "good",
        /// At least 1 in 20 calls fails.
        Degraded = "degraded",
        /// At least 1 in 5 calls fails.
        Failing = "failing",
        /// At least half of the calls that were due were not made: no free connection, or its breaker is open. Those above
        /// its cap of calls per second do not count.
        NotAsked = "not_asked",
        /// Too few calls to judge by.
        Quiet = "quiet",
    }
}

impl ConnectionEnd {
    /// Whether the one at the other end behaved badly, or is refused for how much it has.
    #[must_use]
    pub fn is_bad(self) -> bool {
        !matches!(self, Self::Closed | Self::Idle | Self::Reset | Self::Panicked)
    }
}

impl StallCause {
    /// The work of a stage, if that is done in one go: waiting does not stop the loop.
    pub(super) fn of_stage(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Parse => Some(Self::Parse),
            Stage::Plan => Some(Self::Plan),
            Stage::Offers => Some(Self::Offers),
            Stage::Auction => Some(Self::Auction),
            Stage::Write => Some(Self::Write),
            Stage::Admit | Stage::Read | Stage::Fanout | Stage::Total => None,
        }
    }
}

impl LongerBy {
    /// Where an answer belongs that was complete `late_ns` after its time.
    pub fn of(late_ns: u64, is_past_deadline: bool) -> Self {
        if is_past_deadline {
            return Self::PastDeadline;
        }
        let fits = |longer: &Self| longer.ms_max().is_some_and(|ms| late_ns <= ms * 1_000_000);
        Self::ALL.into_iter().find(fits).unwrap_or(Self::Longer)
    }

    /// The upper bound, for those that have one.
    pub fn ms_max(self) -> Option<u64> {
        self.label().parse().ok()
    }
}

/// The HTTP statuses that are counted by number, most frequent first; any other counts as `other`.
const STATUSES: [u16; 12] = [200, 204, 503, 400, 404, 405, 408, 411, 413, 415, 431, 500];

/// A closed list of label values that can index an array.
pub(super) trait Labelled: Copy {
    fn index(self) -> usize;
}

/// One counter per label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts<const N: usize>([u64; N]);

impl<const N: usize> Counts<N> {
    pub(super) fn add_one(&mut self, label: impl Labelled) {
        self.add(label, 1);
    }

    pub(super) fn add(&mut self, label: impl Labelled, n: u64) {
        self.0[label.index()] += n;
    }

    pub(super) fn set(&mut self, label: impl Labelled, n: u64) {
        self.0[label.index()] = n;
    }

    pub(super) fn get(&self, label: impl Labelled) -> u64 {
        self.0[label.index()]
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(array::from_fn(|_| 0))
    }
}

/// Answers to the SSP, by HTTP status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StatusCounts {
    known: [u64; STATUSES.len()],
    other: u64,
}

impl StatusCounts {
    pub(super) fn add_one(&mut self, status: u16) {
        match STATUSES.iter().position(|&known| known == status) {
            Some(index) => self.known[index] += 1,
            None => self.other += 1,
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.known.iter_mut().zip(other.known) {
            *mine += theirs;
        }
        self.other += other.other;
    }

    /// Every status that is counted by number, answered or not, and last the rest as `None`.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        STATUSES
            .into_iter()
            .map(Some)
            .zip(self.known)
            .chain([(None, self.other)])
    }
}

/// Reason codes kept at once. OpenRTB names 32 loss reasons and 35 non-bid statuses, of which one exchange
/// uses about a dozen; codes from 500 (non-bid) and 1000 (loss) on are free to anybody, hence the limit.
const CODES_MAX: usize = 48;

/// How often each of OpenRTB's numeric reason codes was given. Past [`CODES_MAX`] different codes the rest is
/// counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodeCounts {
    codes: [u16; CODES_MAX],
    counts: [u64; CODES_MAX],
    used: usize,
    other: u64,
}

impl CodeCounts {
    pub(super) fn add_one(&mut self, code: u16) {
        self.add(code, 1);
    }

    pub(super) fn add(&mut self, code: u16, n: u64) {
        if let Some(index) = self.codes[..self.used].iter().position(|&known| known == code) {
            self.counts[index] += n;
        } else if self.used < CODES_MAX {
            self.codes[self.used] = code;
            self.counts[self.used] = n;
            self.used += 1;
        } else {
            self.other += n;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (&code, &n) in other.codes[..other.used].iter().zip(&other.counts) {
            self.add(code, n);
        }
        self.other += other.other;
    }

    /// Each code that was given, in the order of first appearance, and last the rest as `None`, if any.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        let known = self.codes[..self.used].iter().copied().map(Some).zip(self.counts);
        known.chain((self.other > 0).then_some((None, self.other)))
    }
}

impl Default for CodeCounts {
    fn default() -> Self {
        Self {
            codes: [0; CODES_MAX],
            counts: [0; CODES_MAX],
            used: 0,
            other: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_goes_by_its_upper_bound() {
        #[track_caller]
        fn check(late_ns: u64, is_past_deadline: bool, expected: LongerBy) {
            assert_eq!(LongerBy::of(late_ns, is_past_deadline), expected, "{late_ns}");
        }
        check(0, false, LongerBy::Ms1);
        check(1_000_000, false, LongerBy::Ms1);
        check(1_000_001, false, LongerBy::Ms2);
        check(15_000_000, false, LongerBy::Ms15);
        check(1_000_000_000, false, LongerBy::Ms1000);
        check(1_000_000_001, false, LongerBy::Longer);
        check(u64::MAX, false, LongerBy::Longer);
        check(1, true, LongerBy::PastDeadline);
    }

    #[test]
    fn statuses_outside_the_list_count_as_other() {
        let mut counts = StatusCounts::default();
        for status in [200, 200, 204, 503, 418, 999, 0] {
            counts.add_one(status);
        }
        let given: Vec<_> = counts.iter().filter(|&(_, n)| n > 0).collect();
        assert_eq!(given, [(Some(200), 2), (Some(204), 1), (Some(503), 1), (None, 3)]);
    }

    #[test]
    fn codes_past_the_limit_are_counted_together() {
        let mut counts = CodeCounts::default();
        for code in 0..100 {
            counts.add_one(code);
        }
        counts.add_one(7);
        assert_eq!(counts.iter().count(), CODES_MAX + 1);
        assert_eq!(
            counts.iter().find(|&(code, _)| code == Some(7)),
            Some((Some(7), 2))
        );
        assert_eq!(counts.iter().last(), Some((None, 52)));

        let mut merged = CodeCounts::default();
        merged.merge(&counts);
        merged.merge(&counts);
        assert_eq!(merged.iter().map(|(_, n)| n).sum::<u64>(), 202);
    }
}
