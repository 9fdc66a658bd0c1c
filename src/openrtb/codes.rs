//! The three number lists of the trade: why nobody bids, why a bid lost, why a seat has no bid for an imp.
//! Numbers and meanings as printed in the lists; refuses to invent any: what a list does not name has no
//! variant here, and the ranges left to exchanges and vendors (500 and above) are not used.

/// Writes one list of codes as an enum: one row per code, so that number, label and meaning stand together.
macro_rules! code_list {
    (
        $(#[$about:meta])*
        $name:ident { $( $(#[$meaning:meta])* $variant:ident = $code:literal $label:literal, )+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[$meaning])* $variant, )+
        }

        impl $name {
            /// Every member of the list, in the order of their numbers.
            pub const ALL: &[Self] = &[$( Self::$variant ),+];

            /// The number on the wire.
            pub const fn code(self) -> u16 {
                match self { $( Self::$variant => $code, )+ }
            }

            /// The member with this number; `None` for a number the list does not name (also 500 and above).
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $( $code => Some(Self::$variant), )+ _ => None }
            }

            /// The snake_case label for metrics and logs; unique within the list.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $label, )+ }
            }
        }
    };
}

code_list! {
    /// Why there is no bid: `BidResponse.nbr` (OpenRTB 2.6 §4.2.1, list in OpenRTB 3.0; 2.5 §5.24 ends at
    /// 10).
    NoBidReason {
        /// Unknown error.
        UnknownError = 0 "unknown_error",
        /// Technical error.
        TechnicalError = 1 "technical_error",
        /// Invalid request.
        InvalidRequest = 2 "invalid_request",
        /// Known web crawler.
        KnownWebCrawler = 3 "known_web_crawler",
        /// Suspected non-human traffic.
        SuspectedNonHuman = 4 "suspected_non_human",
        /// Cloud, data centre or proxy IP.
        DataCenterIp = 5 "data_center_ip",
        /// Unsupported device.
        UnsupportedDevice = 6 "unsupported_device",
        /// Blocked publisher or site.
        BlockedPublisher = 7 "blocked_publisher",
        /// Unmatched user.
        UnmatchedUser = 8 "unmatched_user",
        /// Daily user cap met.
        DailyUserCap = 9 "daily_user_cap",
        /// Daily domain cap met.
        DailyDomainCap = 10 "daily_domain_cap",
        /// ads.txt authorization unavailable.
        AdsTxtUnavailable = 11 "ads_txt_unavailable",
        /// ads.txt authorization violation.
        AdsTxtViolation = 12 "ads_txt_violation",
        /// ads.cert authentication unavailable.
        AdsCertUnavailable = 13 "ads_cert_unavailable",
        /// ads.cert authentication violation.
        AdsCertViolation = 14 "ads_cert_violation",
        /// Insufficient auction time.
        InsufficientTime = 15 "insufficient_time",
        /// Incomplete supply chain.
        IncompleteSupplyChain = 16 "incomplete_supply_chain",
        /// Blocked supply chain node.
        BlockedSupplyChainNode = 17 "blocked_supply_chain_node",
    }
}

code_list! {
    /// Why a bid lost: `${AUCTION_LOSS}` (OpenRTB 2.6 §4.4.1, list in OpenRTB 3.0; 2.5 §5.25 ends at 213).
    ///
    /// The list's 0, "bid won", is no reason to lose and so no member; `auction::Verdict::code` writes it.
    LossReason {
        /// Internal error: ours, not the DSP's.
        InternalError = 1 "internal_error",
        /// Impression opportunity expired.
        Expired = 2 "expired",
        /// Invalid bid response.
        InvalidBidResponse = 3 "invalid_bid_response",
        /// Invalid deal ID.
        InvalidDealId = 4 "invalid_deal_id",
        /// Invalid auction ID.
        InvalidAuctionId = 5 "invalid_auction_id",
        /// Invalid (malformed) advertiser domain.
        InvalidAdvertiserDomain = 6 "invalid_advertiser_domain",
        /// Missing markup.
        MissingMarkup = 7 "missing_markup",
        /// Missing creative ID.
        MissingCreativeId = 8 "missing_creative_id",
        /// Missing bid price.
        MissingPrice = 9 "missing_price",
        /// Missing minimum creative approval data.
        MissingApprovalData = 10 "missing_approval_data",
        /// Below the auction floor.
        BelowFloor = 100 "below_floor",
        /// Below the deal floor.
        BelowDealFloor = 101 "below_deal_floor",
        /// Lost to a higher bid.
        LostToHigherBid = 102 "lost_to_higher_bid",
        /// Lost to a bid for a deal.
        LostToDeal = 103 "lost_to_deal",
        /// Buyer seat blocked.
        SeatBlocked = 104 "seat_blocked",
        /// Creative filtered: general, reason unknown.
        CreativeFiltered = 200 "creative_filtered",
        /// Creative filtered: pending processing by the exchange.
        CreativePending = 201 "creative_pending",
        /// Creative filtered: disapproved by the exchange.
        CreativeDisapproved = 202 "creative_disapproved",
        /// Creative filtered: size not allowed.
        SizeNotAllowed = 203 "size_not_allowed",
        /// Creative filtered: incorrect format.
        WrongFormat = 204 "wrong_format",
        /// Creative filtered: advertiser exclusion.
        AdvertiserExcluded = 205 "advertiser_excluded",
        /// Creative filtered: app store ID exclusion (2.5: app bundle).
        AppStoreIdExcluded = 206 "app_store_id_excluded",
        /// Creative filtered: not secure.
        NotSecure = 207 "not_secure",
        /// Creative filtered: language exclusion.
        LanguageExcluded = 208 "language_excluded",
        /// Creative filtered: category exclusion.
        CategoryExcluded = 209 "category_excluded",
        /// Creative filtered: creative attribute exclusion.
        AttributeExcluded = 210 "attribute_excluded",
        /// Creative filtered: ad type exclusion.
        AdTypeExcluded = 211 "ad_type_excluded",
        /// Creative filtered: animation too long.
        AnimationTooLong = 212 "animation_too_long",
        /// Creative filtered: not allowed in the deal.
        NotAllowedInDeal = 213 "not_allowed_in_deal",
        /// Creative filtered: invalid SKAdNetwork object or identifier.
        InvalidSkAdNetwork = 214 "invalid_sk_ad_network",
        /// Creative filtered: app bundle exclusion.
        AppBundleExcluded = 215 "app_bundle_excluded",
    }
}

code_list! {
    /// Why a seat has no bid for an imp: `BidResponse.ext.seatnonbid[].nonbid[].statuscode` (IAB community
    /// extension "Seat Non Bid"). 0 to 17 repeat [`NoBidReason`] on purpose, so that a DSP's `nbr` passes on.
    NonBidStatus {
        /// No bid: general.
        NoBid = 0 "no_bid",
        /// No bid: internal technical error.
        TechnicalError = 1 "technical_error",
        /// No bid: invalid request.
        InvalidRequest = 2 "invalid_request",
        /// No bid: known web crawler.
        KnownWebCrawler = 3 "known_web_crawler",
        /// No bid: suspected non-human traffic.
        SuspectedNonHuman = 4 "suspected_non_human",
        /// No bid: cloud, data centre or proxy IP.
        DataCenterIp = 5 "data_center_ip",
        /// No bid: unsupported device.
        UnsupportedDevice = 6 "unsupported_device",
        /// No bid: blocked publisher or site.
        BlockedPublisher = 7 "blocked_publisher",
        /// No bid: unmatched user.
        UnmatchedUser = 8 "unmatched_user",
        /// No bid: daily user cap met.
        DailyUserCap = 9 "daily_user_cap",
        /// No bid: daily domain cap met.
        DailyDomainCap = 10 "daily_domain_cap",
        /// No bid: ads.txt authorization unavailable.
        AdsTxtUnavailable = 11 "ads_txt_unavailable",
        /// No bid: ads.txt authorization violation.
        AdsTxtViolation = 12 "ads_txt_violation",
        /// No bid: ads.cert authentication unavailable.
        AdsCertUnavailable = 13 "ads_cert_unavailable",
        /// No bid: ads.cert authentication violation.
        AdsCertViolation = 14 "ads_cert_violation",
        /// No bid: insufficient auction time.
        InsufficientTime = 15 "insufficient_time",
        /// No bid: incomplete supply chain.
        IncompleteSupplyChain = 16 "incomplete_supply_chain",
        /// No bid: blocked supply chain node.
        BlockedSupplyChainNode = 17 "blocked_supply_chain_node",
        /// Error: general.
        Error = 100 "error",
        /// Error: timeout.
        Timeout = 101 "timeout",
        /// Error: invalid bid response.
        InvalidBidResponse = 102 "invalid_bid_response",
        /// Error: bidder unreachable.
        Unreachable = 103 "unreachable",
        /// Request blocked: general.
        RequestBlocked = 200 "request_blocked",
        /// Request blocked: unsupported channel (app, site, dooh).
        UnsupportedChannel = 201 "unsupported_channel",
        /// Request blocked: unsupported media type.
        UnsupportedMediaType = 202 "unsupported_media_type",
        /// Request blocked: optimized.
        Optimized = 203 "optimized",
        /// Request blocked: privacy.
        Privacy = 204 "privacy",
        /// Request blocked: unsupported currency.
        UnsupportedCurrency = 205 "unsupported_currency",
        /// Response rejected: general.
        Rejected = 300 "rejected",
        /// Response rejected: below floor.
        BelowFloor = 301 "below_floor",
        /// Response rejected: duplicate.
        Duplicate = 302 "duplicate",
        /// Response rejected: category mapping invalid.
        InvalidCategoryMapping = 303 "invalid_category_mapping",
        /// Response rejected: below deal floor.
        BelowDealFloor = 304 "below_deal_floor",
        /// Response rejected: invalid creative.
        InvalidCreative = 350 "invalid_creative",
        /// Response rejected: invalid creative, size not allowed.
        SizeNotAllowed = 351 "size_not_allowed",
        /// Response rejected: invalid creative, not secure.
        NotSecure = 352 "not_secure",
        /// Response rejected: invalid creative, incorrect format.
        WrongFormat = 353 "wrong_format",
        /// Response rejected: invalid creative, malware.
        Malware = 354 "malware",
        /// Response rejected: invalid creative, advertiser exclusions (competitive separation).
        AdvertiserExcluded = 355 "advertiser_excluded",
        /// Response rejected: invalid creative, advertiser blocked (by the publisher).
        AdvertiserBlocked = 356 "advertiser_blocked",
        /// Response rejected: invalid creative, category exclusion.
        CategoryExcluded = 357 "category_excluded",
    }
}

impl From<NoBidReason> for NonBidStatus {
    /// A DSP's `nbr` as the status of its seat: the same number (Seat Non Bid, "Guidance").
    fn from(reason: NoBidReason) -> Self {
        Self::from_code(reason.code()).unwrap_or(Self::NoBid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! check_list {
        ($name:ident, first $first:literal, last $last:literal, count $count:literal) => {{
            let codes: Vec<u16> = $name::ALL.iter().map(|member| member.code()).collect();
            assert!(
                codes.is_sorted_by(|a, b| a < b),
                "{} in the order of its numbers: {codes:?}",
                stringify!($name)
            );
            assert_eq!(
                (codes.first(), codes.last(), codes.len()),
                (Some(&$first), Some(&$last), $count)
            );
            for &member in $name::ALL {
                assert_eq!($name::from_code(member.code()), Some(member));
                let label = member.as_str();
                assert!(
                    label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{label}"
                );
                assert_eq!(
                    $name::ALL.iter().filter(|other| other.as_str() == label).count(),
                    1,
                    "{label}"
                );
            }
            assert_eq!($name::from_code(99), None);
            assert_eq!($name::from_code(500), None);
        }};
    }

    #[test]
    fn lists_are_ordered_unique_and_read_back() {
        check_list!(NoBidReason, first 0, last 17, count 18);
        check_list!(LossReason, first 1, last 215, count 31);
        check_list!(NonBidStatus, first 0, last 357, count 41);
    }

    #[test]
    fn nbr_keeps_its_number_as_a_status() {
        for &reason in NoBidReason::ALL {
            assert_eq!(NonBidStatus::from(reason).code(), reason.code());
        }
    }
}
