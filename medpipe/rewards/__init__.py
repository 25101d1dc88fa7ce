"""The medical reward: six small components behind gates, a safety penalty on top (docs/rewards.md).

`compose.MedicalReward` puts them together; each component is one file with its source and its known weaknesses.
What this leaves out: the verifiers that training calls (they decide which reward a message gets).
"""
