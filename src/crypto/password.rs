//! Generated passwords.
//!
//! Owns the rules of a password ([`Recipe`]), as ConductorOne asks for them and as the organisation demands them, and the
//! uniform choice among all passwords that obey. Randomness is aws-lc's; buffers are wiped. Facts: the password options
//! and the alphabets of the SDK.

use std::fmt;

use aws_lc_rs::rand;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    error::{Class, Classify, Code},
    proto::connector::{self as v2, credential_options::RandomPassword},
};

/// Shortest password that can be asked for, in characters.
pub const MIN_LENGTH: usize = 8;
/// Longest password that can be asked for, in characters.
pub const MAX_LENGTH: usize = 64;
/// Length of a password when nothing is asked for.
pub const DEFAULT_LENGTH: usize = 24;

const LOWERCASE: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPERCASE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &str = "0123456789";
const SYMBOLS: &str = r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##;
/// Texts shorter than this are in too many passwords to be forbidden.
const MIN_FORBIDDEN_LEN: usize = 3;
/// How often a password is drawn before the rules are taken to contradict each other.
const ATTEMPTS: usize = 1000;

/// Why no password could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The length is outside the limits.
    #[error("random_password.length is {length}; 8 to 64 characters can be asked for")]
    Length {
        /// What was asked for.
        length: i64,
    },
    /// A constraint wants characters of an empty set.
    #[error(
        "random_password.constraints[{index}] wants {count} characters, but its char_set is empty"
    )]
    EmptySet {
        /// Position of the constraint, from 0.
        index: usize,
        /// How many it wants.
        count: usize,
    },
    /// The constraints want more characters than the password has.
    #[error(
        "random_password.constraints want {sum} characters, but random_password.length is {length}; ask for a longer \
         password"
    )]
    Constraints {
        /// The sum of the smallest counts.
        sum: usize,
        /// The length.
        length: usize,
    },
    /// No password obeys all the rules.
    #[error(
        "no password of {length} characters obeys all rules; ask for fewer constraints or a longer password"
    )]
    Impossible {
        /// The length.
        length: usize,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random bytes")]
    Random,
}

impl Classify for Error {
    fn class(&self) -> Class {
        self.code().class()
    }

    fn code(&self) -> Code {
        match self {
            Self::Random => Code::Internal,
            _ => Code::InvalidArgument,
        }
    }
}

/// What an organisation demands of every password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Fewest characters.
    pub min_length: usize,
    /// A lowercase letter must be in it.
    pub lowercase: bool,
    /// An uppercase letter must be in it.
    pub uppercase: bool,
    /// A digit must be in it.
    pub digit: bool,
    /// A symbol must be in it.
    pub symbol: bool,
    /// No three equal or sequential characters may follow each other.
    pub no_runs: bool,
}

/// The rules of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipe {
    /// How many characters it has.
    pub length: usize,
    /// Sets of characters, and how many of each set must be in it at least.
    pub required: Vec<(String, usize)>,
    /// Texts that must not be in it in any case, such as the name of the user; shorter ones than three characters are
    /// ignored.
    pub forbidden: Vec<String>,
    /// Whether three equal or sequential characters in a row are kept out, in any case.
    pub no_runs: bool,
}

impl Recipe {
    /// The rules that ConductorOne asks for; without options those of a strong password.
    ///
    /// Without constraints each of lowercase, uppercase, digits and symbols is in it. With constraints only these are
    /// required, and the rest is drawn from all four kinds, as in the SDK. Characters count, not bytes.
    pub fn of(options: Option<&RandomPassword>) -> Result<Self, Error> {
        let (length, constraints) = match options {
            None => (DEFAULT_LENGTH, [].as_slice()),
            Some(options) => match usize::try_from(options.length) {
                Ok(length @ MIN_LENGTH..=MAX_LENGTH) => (length, options.constraints.as_slice()),
                _ => {
                    return Err(Error::Length {
                        length: options.length,
                    });
                }
            },
        };
        let mut required = Vec::new();
        let mut sum = 0_usize;
        for (index, constraint) in constraints.iter().enumerate() {
            let v2::PasswordConstraint {
                char_set,
                min_count,
            } = constraint;
            let count = usize::try_from(*min_count).unwrap_or(usize::MAX);
            if count > 0 && char_set.is_empty() {
                return Err(Error::EmptySet { index, count });
            }
            sum = sum.saturating_add(count);
            required.push((char_set.clone(), count));
        }
        if sum > length {
            return Err(Error::Constraints { sum, length });
        }
        if constraints.is_empty() {
            required.extend([LOWERCASE, UPPERCASE, DIGITS, SYMBOLS].map(|set| (set.to_owned(), 1)));
        }
        Ok(Self {
            length,
            required,
            forbidden: Vec::new(),
            no_runs: false,
        })
    }

    /// The same rules and those of a policy: what is missing is added, nothing is weakened.
    ///
    /// A kind of character is missing unless a set of that kind alone is required already. The length grows as far as
    /// the policy and the added characters ask for, also past [`MAX_LENGTH`].
    #[must_use]
    pub fn at_least(mut self, policy: Policy) -> Self {
        for (wanted, kind) in [
            (policy.lowercase, LOWERCASE),
            (policy.uppercase, UPPERCASE),
            (policy.digit, DIGITS),
            (policy.symbol, SYMBOLS),
        ] {
            let there = self.required.iter().any(|(set, count)| {
                *count > 0 && !set.is_empty() && set.chars().all(|c| kind.contains(c))
            });
            if wanted && !there {
                self.required.push((kind.to_owned(), 1));
            }
        }
        let sum = self
            .required
            .iter()
            .fold(0_usize, |sum, (_, count)| sum.saturating_add(*count));
        self.length = self.length.max(policy.min_length).max(sum);
        self.no_runs |= policy.no_runs;
        self
    }

    /// The same rules, with texts that must not be in the password.
    #[must_use]
    pub fn without(mut self, forbidden: impl IntoIterator<Item = String>) -> Self {
        self.forbidden.extend(forbidden);
        self
    }

    /// Draws a password, every one that obeys as likely as its characters are.
    ///
    /// Characters of the required sets are drawn first, the rest from all four kinds, and the whole is shuffled; what
    /// breaks a rule is thrown away and drawn anew.
    pub fn generate(&self) -> Result<SecretString, Error> {
        let mut random = Random::default();
        let required: Vec<(Vec<char>, usize)> = self
            .required
            .iter()
            .map(|(set, count)| (alphabet(set), *count))
            .collect();
        let fill = alphabet(&[LOWERCASE, UPPERCASE, DIGITS, SYMBOLS].concat());
        let impossible = Error::Impossible {
            length: self.length,
        };
        let sum = required
            .iter()
            .fold(0_usize, |sum, (_, count)| sum.saturating_add(*count));
        let Some(rest) = self.length.checked_sub(sum) else {
            return Err(impossible);
        };
        let forbidden: Vec<String> = self
            .forbidden
            .iter()
            .filter(|text| text.chars().count() >= MIN_FORBIDDEN_LEN)
            .map(|text| text.to_lowercase())
            .collect();
        let mut password = Zeroizing::new(Vec::with_capacity(self.length));
        for _ in 0..ATTEMPTS {
            password.clear();
            for (set, count) in required.iter().chain([&(fill.clone(), rest)]) {
                for _ in 0..*count {
                    let at = random.below(set.len())?;
                    password.push(*set.get(at).ok_or_else(|| impossible.clone())?);
                }
            }
            for last in (1..password.len()).rev() {
                password.swap(last, random.below(last + 1)?);
            }
            if self.no_runs && has_run(&password) {
                continue;
            }
            let text = text_of(&password);
            let folded = Zeroizing::new(text.to_lowercase());
            if !forbidden.iter().any(|text| folded.contains(text.as_str())) {
                // Exactly as long as its text, so that it is not moved again.
                return Ok(SecretString::from(text.as_str().to_owned()));
            }
        }
        Err(impossible)
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe")
            .field("length", &self.length)
            .field("required", &self.required)
            // These are names of people.
            .field("forbidden", &self.forbidden.len())
            .field("no_runs", &self.no_runs)
            .finish()
    }
}

/// The characters of a set, each once, so that all are equally likely.
fn alphabet(set: &str) -> Vec<char> {
    let mut characters: Vec<char> = set.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    characters
}

fn text_of(characters: &[char]) -> Zeroizing<String> {
    let length = characters.iter().map(|c| c.len_utf8()).sum();
    let mut text = Zeroizing::new(String::with_capacity(length));
    text.extend(characters);
    text
}

/// Whether three characters in a row are equal, or follow each other up or down, letters in any case.
fn has_run(characters: &[char]) -> bool {
    let number = |c: &char| i64::from(u32::from(c.to_ascii_lowercase()));
    characters.windows(3).any(|three| match three {
        [a, b, c] => {
            let step = number(b) - number(a);
            step.abs() <= 1 && number(c) - number(b) == step
        }
        _ => false,
    })
}

/// Random numbers, from bytes that are fetched in blocks.
struct Random {
    block: Zeroizing<[u8; 256]>,
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        let block = Zeroizing::new([0; 256]);
        let used = block.len();
        Self { block, used }
    }
}

impl Random {
    fn next(&mut self) -> Result<u32, Error> {
        if self.used >= self.block.len() {
            if rand::fill(self.block.as_mut_slice()).is_err() {
                return Err(Error::Random);
            }
            self.used = 0;
        }
        let bytes = self
            .block
            .get(self.used..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(Error::Random)?;
        self.used += bytes.len();
        Ok(u32::from_le_bytes(*bytes))
    }

    /// A number below a limit, each equally likely: numbers of the last, incomplete round are thrown away.
    fn below(&mut self, limit: usize) -> Result<usize, Error> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).max(1);
        let unusable = (u32::MAX % limit + 1) % limit;
        loop {
            let number = self.next()?;
            if number <= u32::MAX - unusable {
                return Ok(usize::try_from(number % limit).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn asked(length: i64, constraints: &[(&str, u32)]) -> RandomPassword {
        RandomPassword {
            length,
            constraints: constraints
                .iter()
                .map(|(set, count)| v2::PasswordConstraint {
                    char_set: (*set).to_owned(),
                    min_count: *count,
                })
                .collect(),
        }
    }

    fn count_of(text: &str, set: &str) -> usize {
        text.chars().filter(|c| set.contains(*c)).count()
    }

    #[test]
    fn without_options_a_strong_password_is_made() {
        let recipe = Recipe::of(None).unwrap();
        let password = recipe.generate().unwrap();
        let password = password.expose_secret();
        assert_eq!(password.chars().count(), DEFAULT_LENGTH);
        for set in [LOWERCASE, UPPERCASE, DIGITS, SYMBOLS] {
            assert!(count_of(password, set) > 0);
        }
        assert_ne!(recipe.generate().unwrap().expose_secret(), password);
    }

    #[test]
    fn the_alphabets_are_the_94_printable_characters() {
        let all = alphabet(&[LOWERCASE, UPPERCASE, DIGITS, SYMBOLS].concat());
        assert_eq!(all, ('!'..='~').collect::<Vec<_>>());
    }

    #[test]
    fn options_that_cannot_be_met_are_refused() {
        let cases = [
            (asked(0, &[]), Error::Length { length: 0 }),
            (asked(7, &[]), Error::Length { length: 7 }),
            (asked(65, &[]), Error::Length { length: 65 }),
            (asked(-1, &[]), Error::Length { length: -1 }),
            (asked(i64::MAX, &[]), Error::Length { length: i64::MAX }),
            (
                asked(8, &[("ab", 1), ("", 2)]),
                Error::EmptySet { index: 1, count: 2 },
            ),
            (
                asked(8, &[("ab", 5), ("01", 4)]),
                Error::Constraints { sum: 9, length: 8 },
            ),
            (
                asked(8, &[("ab", u32::MAX), ("01", u32::MAX)]),
                Error::Constraints {
                    sum: 2 * (u32::MAX as usize),
                    length: 8,
                },
            ),
        ];
        for (options, expected) in cases {
            let error = Recipe::of(Some(&options)).unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(
                (error.code(), error.class()),
                (Code::InvalidArgument, Class::Permanent)
            );
        }
        for length in [8, 64] {
            assert!(Recipe::of(Some(&asked(length, &[]))).is_ok());
        }
    }

    #[test]
    fn an_empty_set_that_wants_nothing_is_no_constraint() {
        let recipe = Recipe::of(Some(&asked(8, &[("", 0)]))).unwrap();
        assert_eq!(
            recipe.generate().unwrap().expose_secret().chars().count(),
            8
        );
    }

    #[test]
    fn characters_count_and_not_bytes() {
        let recipe = Recipe::of(Some(&asked(8, &[("äöü€", 8)]))).unwrap();
        let password = recipe.generate().unwrap();
        assert_eq!(count_of(password.expose_secret(), "äöü€"), 8);
        assert_eq!(password.expose_secret().chars().count(), 8);
    }

    #[test]
    fn rules_that_contradict_each_other_are_told() {
        let mut recipe = Recipe::of(Some(&asked(8, &[("a", 8)]))).unwrap();
        assert_eq!(recipe.generate().unwrap().expose_secret(), "aaaaaaaa");
        recipe.no_runs = true;
        assert_eq!(
            recipe.generate().unwrap_err(),
            Error::Impossible { length: 8 }
        );
        recipe.no_runs = false;
        let recipe = recipe.without(["AAA".to_owned()]);
        assert_eq!(
            recipe.generate().unwrap_err(),
            Error::Impossible { length: 8 }
        );
        let made_by_hand = Recipe {
            length: 1,
            required: vec![("ab".to_owned(), 2)],
            forbidden: Vec::new(),
            no_runs: false,
        };
        assert_eq!(
            made_by_hand.generate().unwrap_err(),
            Error::Impossible { length: 1 }
        );
        let empty = Recipe {
            required: vec![(String::new(), 1)],
            ..made_by_hand
        };
        assert_eq!(
            empty.generate().unwrap_err(),
            Error::Impossible { length: 1 }
        );
    }

    #[test]
    fn a_policy_adds_what_is_missing_and_weakens_nothing() {
        let strict = Policy {
            min_length: 14,
            lowercase: true,
            uppercase: true,
            digit: true,
            symbol: true,
            no_runs: true,
        };
        let recipe = Recipe::of(Some(&asked(8, &[("01", 6), ("abXY", 2)])))
            .unwrap()
            .at_least(strict);
        // "abXY" may give two uppercase letters, so a lowercase one must be asked for.
        assert_eq!(
            recipe.required,
            [
                ("01", 6),
                ("abXY", 2),
                (LOWERCASE, 1),
                (UPPERCASE, 1),
                (SYMBOLS, 1)
            ]
            .map(|(set, count)| (set.to_owned(), count))
        );
        assert_eq!((recipe.length, recipe.no_runs), (14, true));
        let short = Recipe::of(Some(&asked(8, &[("01", 8)]))).unwrap();
        assert_eq!(
            short
                .at_least(Policy {
                    min_length: 0,
                    ..strict
                })
                .length,
            11
        );
        let long = Recipe::of(Some(&asked(40, &[]))).unwrap();
        assert_eq!(long.clone().at_least(Policy::default()), long);
    }

    #[test]
    fn runs_are_three_equal_or_sequential_characters() {
        for text in ["xaaay", "abc", "cba", "aBc", "789", "321", "zAaA"] {
            assert!(has_run(&text.chars().collect::<Vec<_>>()), "{text}");
        }
        for text in ["aabb", "acd", "ab1", "a1a1", "135", "9ab", ""] {
            assert!(!has_run(&text.chars().collect::<Vec<_>>()), "{text}");
        }
    }

    #[test]
    fn numbers_below_a_limit_are_equally_likely() {
        let mut random = Random::default();
        for limit in [1, 2, 3, 26, 94] {
            let mut seen = vec![0_u32; limit];
            for _ in 0..limit * 400 {
                seen[random.below(limit).unwrap()] += 1;
            }
            // Six standard deviations on each side of 400.
            assert!(
                seen.iter().all(|n| (280..=520).contains(n)) || limit == 1,
                "{seen:?}"
            );
        }
    }

    #[test]
    fn debug_output_shows_no_name() {
        let recipe = Recipe::of(None).unwrap().without(["jane.doe".to_owned()]);
        assert!(!format!("{recipe:?}").contains("jane"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_password_obeys_its_recipe(
            length in 8_i64..=64,
            constraints in prop::collection::vec(("[a-zA-Z0-9!-/äß€]{5,20}", 0_u32..3), 0..4),
            user in "[a-z]{1,6}",
            no_runs: bool,
            policy in (0..30_usize, any::<[bool; 4]>()),
        ) {
            let constraints: Vec<_> =
                constraints.iter().map(|(set, count)| (set.as_str(), *count)).collect();
            let policy = Policy {
                min_length: policy.0,
                lowercase: policy.1[0],
                uppercase: policy.1[1],
                digit: policy.1[2],
                symbol: policy.1[3],
                no_runs,
            };
            let recipe = Recipe::of(Some(&asked(length, &constraints)))
                .unwrap()
                .at_least(policy)
                .without([user.clone()]);
            let password = recipe.generate().unwrap();
            let password = password.expose_secret();
            prop_assert_eq!(password.chars().count(), recipe.length);
            prop_assert!(recipe.length >= policy.min_length.max(usize::try_from(length).unwrap()));
            for (set, count) in &constraints {
                prop_assert!(count_of(password, set) >= usize::try_from(*count).unwrap());
            }
            for (wanted, kind) in [
                (policy.lowercase, LOWERCASE),
                (policy.uppercase, UPPERCASE),
                (policy.digit, DIGITS),
                (policy.symbol, SYMBOLS),
            ] {
                prop_assert!(!wanted || count_of(password, kind) > 0);
            }
            prop_assert!(user.len() < 3 || !password.to_lowercase().contains(&user));
            prop_assert!(!no_runs || !has_run(&password.chars().collect::<Vec<_>>()));
            let allowed = [LOWERCASE, UPPERCASE, DIGITS, SYMBOLS].concat();
            let sets: String = constraints.iter().map(|(set, _)| *set).collect();
            prop_assert!(password.chars().all(|c| allowed.contains(c) || sets.contains(c)));
        }
    }
}
