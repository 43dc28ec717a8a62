//! Lists of which nearly all are empty or have one member.

/// A list in no order. Members equal to another stand there once for each time they were added.
#[derive(Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Two or more. Behind a pointer, since who has many of these lists pays for the largest form of each.
    #[expect(
        clippy::box_collection,
        reason = "a list in place would make every other form larger"
    )]
    More(Box<Vec<T>>),
}

impl<T: Copy + PartialEq> Few<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(only) => std::slice::from_ref(only),
            Few::More(list) => list,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn push(&mut self, member: T) {
        match self {
            Few::None => *self = Few::One(member),
            Few::One(first) => *self = Few::More(Box::new(vec![*first, member])),
            Few::More(list) => list.push(member),
        }
    }

    /// Takes a member out once, if it is there.
    pub(crate) fn take_out(&mut self, member: T) {
        match self {
            Few::One(only) if *only == member => *self = Few::None,
            Few::None | Few::One(_) => {}
            Few::More(list) => {
                if let Some(place) = list.iter().position(|other| *other == member) {
                    list.swap_remove(place);
                }
                if let [only] = list.as_slice() {
                    *self = Few::One(*only);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_list_in_no_order(steps in prop::collection::vec((any::<bool>(), 0u8..3), 0..40)) {
            let (mut few, mut plain) = (Few::default(), Vec::new());
            for (comes, member) in steps {
                if comes {
                    few.push(member);
                    plain.push(member);
                } else {
                    few.take_out(member);
                    if let Some(place) = plain.iter().position(|other| *other == member) {
                        plain.remove(place);
                    }
                }
                let mut members = few.as_slice().to_vec();
                members.sort_unstable();
                let mut expected = plain.clone();
                expected.sort_unstable();
                prop_assert_eq!(members, expected);
                prop_assert_eq!(few.is_empty(), plain.is_empty());
                prop_assert_eq!(matches!(few, Few::More(_)), plain.len() > 1);
            }
        }
    }
}
