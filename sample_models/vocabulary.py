"""The words `tagger` knows, by part of speech (the tags of Universal Dependencies)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        tag: tuple(words.split())
        for tag, words in {
            "NOUN": """
                answer apple arm baby bag ball bank bed bird boat body book bottle box boy bread bridge brother bus
                camera car card cat chair child church city class clock cloud coat coffee computer corner country
                cow cup day desk doctor dog door dream engine evening eye face family farm father field fire fish
                floor flower food foot forest friend game garden girl glass gold grass group hand hat head heart
                hill history horse hospital hour house ice idea island key kitchen lake language leaf letter library
                light line lion man map market meal milk minute mirror money moon morning mother mountain mouth
                music name night number office oil paper parent park pencil people phone picture plane plant plate
                queen question radio rain river road room rose salt school sea season seat ship shirt shoe shop
                sister sky snow son song spoon star station stone story street student sugar summer sun table tea
                teacher team time tower town train tree village voice wall water week wheel wind window winter woman
                wood word worker world year
            """,
            "VERB": """
                arrive asks ate became began believes bought breaks brings builds called came carries catches
                chooses climbs closed comes cooks cries cuts dances draws drinks drives eats fell feels finds
                finishes flew follows forgets found gave gets gives goes grew has hears helps holds jumped keeps
                knows laughs learns leaves likes listens lives looks loses loves made makes meets moves needs opens
                paints plays puts ran reads remembers runs said sat saw says see sees sells sends shows sings sits
                sleeps speaks stands starts stays stood stops swims takes talks teaches thinks throws told took travel
                travels tries turns understands used visits waits walks wants washes watches went wins works writes
                wrote
            """,
            "ADJ": """
                angry bad beautiful big black blue brave bright brown busy clean clever cold dark deep dry early
                easy empty fast fresh full good great green happy hard heavy high hot hungry kind large late lazy
                little long loud low new old open poor quick quiet red rich round sad sharp short slow small soft
                strong sweet tall thin tired warm weak wet white wide wild wise yellow young
            """,
            "ADV": """
                again almost always already away badly everywhere far here home never now often outside quickly
                quietly rarely slowly sometimes soon still then there today together tomorrow too very well
                yesterday
            """,
            "PRON": "he her him i it me mine nobody she somebody something that them they us we what who you",
            "DET": "a all an any both each every his its my no our some the their these this those your",
            "ADP": """
                about above across after against along among around at before behind below between by during for
                from in inside into near of off on over past through to toward under until up with without
            """,
            "AUX": "am are be been can could did do does is may might must shall should was were will would",
            "CCONJ": "and but nor or yet",
            "NUM": "one two three four five six seven eight nine ten hundred thousand",
            "PUNCT": ". , ; : ! ?",
        }.items()
    }
)
"""Words of each tag, in small letters; no word is under two tags."""
