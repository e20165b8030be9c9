"""The texts of RULER's tasks, word for word, and how many tokens an answer is given.

They define the tasks and are those of the official suite: github.com/NVIDIA/RULER ("RULER: What's the Real
Context Size of Your Long-Context Language Models?"), constants.py and niah.py in scripts/data/synthetic,
copyright 2024 NVIDIA CORPORATION, Apache License 2.0. A prompt is a task's text and the beginning of its
answer in one; where one thing is asked, the official suite puts the text into the singular, as here.
"""

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

NEEDLE = "One of the special magic numbers for {key} is: {value}."
NEEDLES_OF_ONE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you"
    " about the number afterwards.\n{context}\nWhat is the special magic number for {query} mentioned in"
    " the provided text? The special magic number for {query} mentioned in the provided text is"
)
NEEDLES_OF_SEVERAL = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will quiz"
    " you about the numbers afterwards.\n{context}\nWhat are all the special magic numbers for {query}"
    " mentioned in the provided text? The special magic numbers for {query} mentioned in the provided text"
    " are"
)
NEEDLES_ANSWER_TOKENS = 128

VARIABLES = (
    "Memorize and track the chain(s) of variable assignment hidden in the following"
    " text.\n\n{context}\nQuestion: Find all variables that are assigned the value {query} in the text"
    " above. Answer: According to the chain(s) of variable assignment in the text above, {number} variables"
    " are assigned the value {query}, they are: "
)
VARIABLES_ANSWER_TOKENS = 30

COMMON_WORDS = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the"
    " ones that appear most often.\n{context}\nQuestion: What are the 10 most common words in the above"
    " list? Answer: The top 10 words that appear most often in the list are:"
)
COMMON_WORDS_ANSWER_TOKENS = 120

FREQUENT_WORDS = (
    "Read the following coded text and track the frequency of each coded word. Find the three most"
    " frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore"
    " the dots '....'. What are the three most frequently appeared words in the above coded text? Answer:"
    " According to the coded text above, the three most frequently appeared words are:"
)
FREQUENT_WORDS_ANSWER_TOKENS = 50
